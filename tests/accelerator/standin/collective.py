"""What joins two stand-ins in torch.distributed: sends on a stream of its own, as NCCL's are; the bytes go by gloo."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

NAME = "standincc"


def register() -> None:
    dist.Backend.register_backend(NAME, Group, devices=["standin"])


class Group(dist.ProcessGroup):
    """Point to point of tensors of the host, as gloo has it, and of the device."""

    def __init__(self, store: dist.Store, rank: int, size: int, timeout: timedelta) -> None:
        super().__init__(rank, size)
        self._rank = rank
        self._gloo = dist.ProcessGroupGloo(store, rank, size, timeout)
        self._streams: dict[torch.device, torch.Stream] = {}

    def getBackendName(self) -> str:  # noqa: N802
        return NAME

    def _get_backend(self, device: torch.device) -> Any:
        return self._gloo

    def send(self, tensors: list[Tensor], peer: int, tag: int = 0) -> Any:
        return self._post(self._gloo.send, tensors, peer, tag, writes=False)

    def recv(self, tensors: list[Tensor], peer: int, tag: int = 0) -> Any:
        return self._post(self._gloo.recv, tensors, peer, tag, writes=True)

    def _post(self, post: Any, tensors: list[Tensor], peer: int, tag: int, *, writes: bool) -> Any:
        if tensors[0].device.type == "cpu":
            return post(tensors, peer, tag)
        device = tensors[0].device
        stream = self._streams.setdefault(device, torch.Stream(device))
        stream.wait_stream(torch.accelerator.current_stream(device))
        with stream:
            staged = [torch.empty_like(tensor, device="cpu") if writes else tensor.cpu() for tensor in tensors]
        return Work(post(staged, peer, tag), stream, list(zip(tensors, staged, strict=True)) if writes else [])


class Work(dist.Work):
    """On the way; it arrives whether anybody waits or not. `wait` keeps the current stream waiting, and the host until
    it is here; it raises what the peer's end has failed with."""

    def __init__(self, work: Any, stream: torch.Stream, received: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self._stream = stream
        self._received = received
        self._arrived: Future[bool] = Future()
        self._event: torch.Event | None = None
        threading.Thread(target=self._await, args=(work,), daemon=True).start()

    def _await(self, work: Any) -> None:
        try:
            self._arrived.set_result(work.wait())
        except RuntimeError as error:
            self._arrived.set_exception(error)

    def is_completed(self) -> bool:
        return self._arrived.done()

    def wait(self, timeout: timedelta | None = None) -> bool:
        self._arrived.result()
        if self._event is None:
            with self._stream:
                for tensor, staged in self._received:
                    tensor.copy_(staged, non_blocking=True)
            self._event = self._stream.record_event()
        torch.accelerator.current_stream(self._stream.device).wait_event(self._event)
        return True
