"""A Ray cluster: connecting, what its machines offer, and its errors as sentences."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from talk2dino.errors import InputError, MissingExtraError, Talk2DinoError

#: Logical CPUs of a task that reads or writes: it waits most of its time.
LIGHT = 0.25
#: Logical CPUs of an actor on machines without a GPU, at most.
CPUS_PER_ACTOR = 4
OLDEST = (2, 40)


@dataclass(frozen=True)
class Pool:
    """The actors that label: how many, and what each takes of a machine; ``threads`` are of torch."""

    actors: int
    cpus: float
    gpus: float
    threads: int


def connect(address: str, *, cpus: int | None = None, object_store_mb: int = 512) -> bool:
    """Connect to a cluster; whether this call did it (and should end it).

    Args:
        address: "auto" (the cluster of this machine), "local" (start one on this machine) or the address of a head node.
        cpus: of a local cluster; the cores available by default.
        object_store_mb: memory of a local cluster's object store.

    Raises:
        MissingExtraError: Ray is missing or too old. InputError: no cluster at the address.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError.of("ray", "scale", "running on a cluster") from None
    if tuple(int(part) for part in ray.__version__.split(".")[:2]) < OLDEST:
        raise MissingExtraError(f"Ray {ray.__version__} is too old: this needs {'.'.join(map(str, OLDEST))} or newer")
    if ray.is_initialized():
        return False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # details are in Ray's own log files
    environment = {"env_vars": {"OMP_WAIT_POLICY": "passive", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}}
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "runtime_env": environment}
    try:
        if address == "local":
            from talk2dino.threads import available_cores

            ray.init(
                "local", num_cpus=cpus or available_cores(), include_dashboard=False,
                object_store_memory=object_store_mb * 2**20, **common,
            )  # fmt: skip
        else:
            _check_reachable(address)
            ray.init(address, **common)
    except (ConnectionError, ValueError, RuntimeError, OSError, TimeoutError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"no Ray cluster answers at {address!r} ({reason}): start one with 'ray start --head', or use --ray local"
        ) from None
    return True


def _check_reachable(address: str) -> None:
    """Fail at once where Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def choose_pool(nodes: list[Mapping[str, float]]) -> Pool:
    """The pool for a cluster of nodes with these resources; at least a quarter of a node's CPUs stay free for reading."""
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    cpus = sum(int(node.get("CPU", 0)) for node in nodes)
    if cpus < 1:
        raise InputError("the cluster has no CPUs to work with")
    if gpus:
        return Pool(gpus, 1, 1, max(1, int(cpus / gpus) - 1))
    smallest = min(int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1)
    each = max(1, min(CPUS_PER_ACTOR, smallest - 1))
    actors = max(1, sum(max(0, int(node.get("CPU", 0)) - 1) // each for node in nodes))
    if actors == 1 and cpus <= 2:  # reading takes little: torch may use both cores
        return Pool(1, 1, 0, cpus)
    return Pool(actors, each, 0, each)


def nodes(ray: Any) -> list[Mapping[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def prepare_context() -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = 0  # an error ends the run with its reason; more would hide a dead actor
    context.execution_options.preserve_order = False


def sentence(error: Exception) -> Talk2DinoError:
    """The error of a task as this package's own, or what became of the cluster."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, Talk2DinoError):
            return type(cause)(str(cause).splitlines()[-1].partition("Error: ")[2] or str(cause))
        cause = getattr(cause, "cause", None) or cause.__cause__
    reason = " ".join(str(error).split())[-400:]
    return Talk2DinoError(
        f"the cluster stopped the run ({type(error).__name__}: {reason}); the same command goes on with what is left"
    )
