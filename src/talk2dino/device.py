"""Choice of device and dtype."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import torch

from talk2dino.errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check_device_name(device: str) -> None:
    """Refuse what cannot be a device on any machine.

    Raises:
        InputError: with what is accepted.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise InputError(f"unknown device {device!r}; accepted: auto, cpu, cuda, cuda:N, mps")


def check_dtype_name(dtype: str) -> None:
    """Refuse an unknown dtype.

    Raises:
        InputError: with what is accepted.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; accepted: auto, {', '.join(DTYPES)}")


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """Return a torch device; "auto" is CUDA if there is one, else Apple's MPS, else the CPU.

    Raises:
        InputError: the device is unknown, or this machine does not have it.
    """
    if isinstance(device, str) and device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputError(f"unknown device {device!r}; accepted: auto, cpu, cuda, cuda:N, mps") from None
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise InputError(
            f"this machine has no device {device} ({torch.cuda.device_count()} CUDA devices found); use cpu or auto"
        )
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("this machine has no device mps; use cpu or auto")
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"device {device} is not supported; accepted: auto, cpu, cuda, cuda:N, mps")
    return chosen


def choose_dtype(dtype: str | torch.dtype, device: torch.device, *, engine: str = "torch") -> torch.dtype:
    """Return a torch dtype; "auto" is bfloat16 if the hardware and the engine compute in it, else float32.

    Raises:
        InputError: the dtype is unknown.
    """
    if isinstance(dtype, torch.dtype):
        if dtype in DTYPES.values():
            return dtype
    elif dtype in DTYPES:
        return DTYPES[dtype]
    elif dtype == "auto":
        if engine == "onnx":
            return torch.float32
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float32
        return torch.bfloat16 if device.type == "cpu" and cpu_has_bfloat16() else torch.float32
    raise InputError(f"unknown dtype {dtype!r}; accepted: auto, {', '.join(DTYPES)}")


@lru_cache(maxsize=1)
def cpu_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware (AVX512-BF16 or AMX)."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
