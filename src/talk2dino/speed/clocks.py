"""Time, rates and memory."""

from __future__ import annotations

import contextlib
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

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
    """FLOP of the matrix products of one image, attention included (a multiply-add counts as 2)."""
    pixels = next(model.parameters()).new_zeros(1, 3, height, width)
    # Torch does not count what fused attention computes.
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(pixels)
    return counter.get_total_flops()


def peak_memory() -> int:
    """Peak resident bytes of this process (0 where the system does not report them).

    On Linux this is VmHWM, which starts with the program; ru_maxrss is inherited from the process that started it.
    """
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"^VmHWM:\s*(\d+)", status.read_text(errors="replace"), re.MULTILINE)):
        return 1024 * int(found[1])
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


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
