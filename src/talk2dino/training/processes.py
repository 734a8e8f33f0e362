"""The processes of a run (one, or several started by torchrun), and how a run is interrupted."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor

from talk2dino.device import choose_device


@dataclass(frozen=True)
class Processes:
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def sum_(self, value: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def wait(self) -> None:
        if self.count > 1:
            dist.barrier()


def is_first_process() -> bool:
    """Whether torchrun, if it started this process, counts it as the first."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def joined_processes(device: torch.device) -> Iterator[Processes]:
    """Join the group that torchrun describes in the environment (gloo on CPUs, nccl on GPUs) for the block."""
    if dist.is_initialized():
        yield Processes(dist.get_rank(), dist.get_world_size())
    elif os.environ.get("WORLD_SIZE", "1") == "1":
        yield Processes()
    else:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            yield Processes(dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()


def own_device(name: str) -> torch.device:
    """The device of this process: "auto" and "cuda" mean its own GPU under torchrun; "auto" without a GPU is the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    device = choose_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Let SIGINT (Ctrl-C), SIGTERM and SIGHUP wait for the end of a step: yields whether one came. A second Ctrl-C ends."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
