"""A Ray cluster as a place for stages: how to join it, and room for them on it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from ffdist.cores import available_cores
from ffdist.errors import ConfigError, StageLostError, setting
from ffdist.exiting import children_heard
from ffdist.runtime.ray_gcs import answers, listens
from ffdist.runtime.ray_own import QUIET, dead_process, own_ray, signals_kept

ANSWER = 30.0
"""Seconds in which a cluster must answer."""
ASK = """
import sys
import ray
from ray._common.usage.usage_lib import get_cluster_metadata
from ray._private.services import canonicalize_bootstrap_address_or_die
found = get_cluster_metadata(ray._raylet.GcsClient(address=canonicalize_bootstrap_address_or_die(sys.argv[1])))
if found and found["ray_version"] != ray.__version__:
    sys.exit(f"Version mismatch: the cluster has Ray {found['ray_version']}, this process {ray.__version__}")
"""
"""Asks a cluster, as `ray health-check` does, in a third of its time: that imports all of Ray's commands. In a process
of its own, since where nothing answers Ray tries for minutes, and then aborts."""


@dataclass(frozen=True)
class RayOptions:
    """The options of Ray: where it puts the stages, and how often it may put them again."""

    address: str | None = None
    """"auto" or host:port of a cluster. None: RAY_ADDRESS, else a Ray of this host alone, for this run."""
    placement: Literal["pack", "spread"] = "pack"
    """Stages on as few nodes as will hold them, or on as many as there are."""
    cpus_per_stage: float = 1.0
    gpus_per_stage: float | None = None
    """None: one where the cluster has enough for all stages, else none."""
    max_restarts: int = 3
    """How often in a row a run that lost a stage goes on; a new snapshot begins the count anew."""
    start_timeout: timedelta = timedelta(minutes=2)
    """How long the cluster may take to make room for the stages."""
    timeout: float | None = None
    """Seconds after which a stage that gives no sign of life is hung; None: never."""
    direct: bool = True
    """Whether nodes reach one another by any port; False: by Ray's own alone (--transport object-store)."""


@contextmanager
def joined(options: RayOptions, stages: int) -> Iterator[None]:
    """A context within a Ray cluster: the one this program has joined already, or the one of `options.address`.

    Raises ConfigError when no cluster answers there, or one of another version of Ray or Python.
    """
    if ray.is_initialized():
        yield
        return
    address = options.address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        with own_ray(max(available_cores(), math.ceil(stages * options.cpus_per_stage))):
            yield
        return
    check_health(address)
    with signals_kept():
        ray.init(address, **QUIET)
    try:
        yield
    finally:
        ray.shutdown()


def with_token(address: str) -> dict[str, str]:
    """This process's environment, for Ray's health check: of a cluster that it finds on this host Ray takes the token
    that lies there, but its health check does so only by RAY_AUTH_MODE."""
    found = address == "auto" and "RAY_ADDRESS" not in os.environ
    kept = Path(os.path.expanduser("~/.ray/auth_token")).is_file()
    given = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    return {**({"RAY_AUTH_MODE": "token"} if found and (kept or given) else {}), **os.environ}


def check_health(address: str) -> None:
    """Raises ConfigError unless a cluster of this version of Ray answers. Ray itself would try for many minutes."""
    if "://" in address:
        raise ConfigError(
            "a driver must be a process of the cluster",
            where=setting("ray.address"),
            expected="auto or host:port",
            got=address,
            remedy="ray job submit -- ffdist train --launcher ray",
        )
    if not listens(address, ANSWER):
        raise no_answer_error(address, "nothing listens there")
    command = [sys.executable, "-c", ASK, address]
    try:
        env = with_token(address)
        with children_heard():
            done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER, check=False, env=env)
    except subprocess.TimeoutExpired:
        said, status = f"no answer in {ANSWER:g} s", 1
    else:
        said, status = (done.stderr or done.stdout).strip(), done.returncode
    if status == 0:
        return
    if "AuthenticationError" in said:
        raise ConfigError(
            "the Ray cluster asks for its token",
            where=setting("ray.address", address),
            expected="RAY_AUTH_MODE=token, and the cluster's token in ~/.ray/auth_token or RAY_AUTH_TOKEN",
            got="another token, or none",
            remedy="set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what `ray get-auth-token` prints on the head",
        )
    if "mismatch" not in said:
        raise no_answer_error(address, (said.splitlines() or ["nothing"])[-1])
    raise ConfigError(
        "the Ray cluster has another version",
        where=setting("ray.address", address),
        expected=versions(),
        got=said[said.find("Version mismatch") :],
        remedy="install the same Ray and Python everywhere",
    )


def no_answer_error(address: str, got: str) -> ConfigError:
    return ConfigError(
        "no Ray cluster answers",
        where=setting("ray.address", address),
        expected=versions(),
        got=got,
        remedy=f"ray start --head, then {setting('ray.address', 'auto')} on that host",
    )


def versions() -> str:
    return f"ray {ray.__version__}, Python {sys.version.split()[0]}"


@contextmanager
def room(options: RayOptions, stages: int) -> Iterator[PlacementGroup]:
    """A reserved place for each stage, given back at the end. Raises ConfigError when there is none in time."""
    place = needs(options, stages)
    group = placement_group([place] * stages, strategy=options.placement.upper())
    try:
        if not group.wait(options.start_timeout.total_seconds()):
            raise no_room_error(options, stages)
        yield group
    finally:
        # also where it was not granted in time: the request would stay, and be granted later to nobody
        if not dead_process() and answers():  # else nobody does it, and Ray ends this process after a minute
            remove_placement_group(group)


def check_node() -> None:
    """Raises StageLostError where the node of this process has left the cluster: nobody starts actors for it then."""
    own = ray.get_runtime_context().get_node_id()
    if not any(node["Alive"] for node in ray.nodes() if node["NodeID"] == own):
        raise StageLostError(
            "the Ray node of this process has left the cluster",
            where=f"node {own}",
            got="its raylet has died, or is cut off",
            remedy="start it again: ray start",
        )


def needs(options: RayOptions, stages: int) -> dict[str, float]:
    """The resources that one stage needs."""
    gpus = options.gpus_per_stage
    if gpus is None:
        gpus = float(ray.cluster_resources().get("GPU", 0) >= stages)
    return {"CPU": options.cpus_per_stage} | ({"GPU": gpus} if gpus else {})


def no_room_error(options: RayOptions, stages: int) -> ConfigError:
    """The error that says which resources are missing."""
    total, free = ray.cluster_resources(), ray.available_resources()
    need = needs(options, stages)
    nodes = sum(node["Alive"] for node in ray.nodes())
    have = ", ".join(f"{name} {free.get(name, 0):g} free of {total.get(name, 0):g}" for name in need)
    return ConfigError(
        "the cluster has no room for the stages",
        where=f"Ray cluster of {nodes} nodes",
        expected=f"{stages} stages, each with " + ", ".join(f"{name} {amount:g}" for name, amount in need.items()),
        got=f"{have}, after {options.start_timeout.total_seconds():g} s",
        remedy=f"add nodes, wait for other jobs, or use a {setting('plan.plan')} of fewer workers, fewer "
        f"{setting('plan.stages')}, or less {setting('ray.cpus_per_stage')} and {setting('ray.gpus_per_stage')}",
    )
