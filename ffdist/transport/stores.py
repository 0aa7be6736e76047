"""A store of torch.distributed that listens at one address alone; torch's own would listen on every interface."""

from __future__ import annotations

import os
import socket
from functools import partial

from torch._C._distributed_c10d import TCPStore


def serve_store(host: str) -> TCPStore:
    """A store that listens on `host` alone, on any free port. Raises OSError for an address that is none of this
    machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        open_store = partial(TCPStore, host, listener.getsockname()[1], is_master=True, wait_for_workers=False)
        try:
            return open_store(master_listen_fd=os.dup(listener.fileno()))
        except NotImplementedError:  # torch 2.6 can take over a listener with its older server alone
            return open_store(master_listen_fd=os.dup(listener.fileno()), use_libuv=False)
