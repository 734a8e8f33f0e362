"""Time, rates and memory."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from talk2dino.models.vision import VisionModel


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of one call, with the device idle before and after."""
    wait_for(device)
    started = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - started


def take_turns(
    works: Mapping[str, Callable[[], object]], turns: int, device: torch.device, *, warm: bool = True
) -> dict[str, list[float]]:
    """Seconds of each piece of work in each turn, after one unmeasured call of each (``warm``).

    They alternate, so that another job on the machine slows all of them and hardly changes their ratios.
    """
    for work in works.values() if warm else ():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(turns):
        for name, work in works.items():
            times[name].append(seconds(work, device))
    return times


def ratio(times: Mapping[str, list[float]], of: str, to: str) -> float:
    """Median over the turns of the seconds of one piece of work over those of another."""
    return statistics.median(a / b for a, b in zip(times[of], times[to], strict=True))


def matmul_rate(dtype: torch.dtype, device: torch.device, turns: int = 7) -> float:
    """FLOP per second of a large matrix product, the bound of a vision model; the best of the turns."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    with torch.inference_mode():
        times = take_turns({"product": lambda: a @ b}, turns, device)["product"]
    return 2 * size**3 / min(times)


def vision_flops(model: VisionModel, height: int, width: int) -> int:
    """FLOP of the matrix products of a plain vision transformer for one image (a multiply-add counts as 2).

    Linear layers by their shapes, attention 4 T^2 D per block, for T tokens of width D.
    """
    config = model.config
    patches = (height // model.patch_size) * (width // model.patch_size)
    tokens = patches + 1 + config.registers
    flops = 0
    for module in model.modules():
        if isinstance(module, nn.Linear):
            flops += 2 * tokens * module.in_features * module.out_features
        elif isinstance(module, nn.Conv2d):
            flops += 2 * patches * module.weight.numel()
    return flops + 4 * tokens**2 * config.width * config.depth


def peak_memory() -> int:
    """Peak resident bytes of this process (0 where the system does not report them).

    On Linux this is VmHWM, which starts with the program; ru_maxrss is inherited from the process that started it.
    """
    try:
        for entry in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if entry.startswith("VmHWM:"):
                return 1024 * int(entry.split()[1])
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def restart_peak() -> None:
    """Let :func:`peak_memory` start again from what is resident now, where the system can do that (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def restart_gpu_peak(device: torch.device) -> None:
    """Let :func:`gpu_peak` start again from what is in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def gpu_peak(device: torch.device) -> int:
    """Peak bytes of GPU memory in tensors; 0 without a CUDA GPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
