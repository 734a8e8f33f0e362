"""Machine code of the CPU kernels: made by numba at the first call, kept on disk where some folder can be written."""

from __future__ import annotations

from collections.abc import Callable

import numba

#: Every kernel that :func:`compiled` made.
KERNELS: list = []


def compiled(function: Callable) -> Callable:
    """Compile at the first call; keep the machine code on disk where some folder can be written."""
    options = {"nogil": True, "fastmath": {"contract", "reassoc", "nsz", "arcp"}, "boundscheck": False}
    try:
        kernel = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package nor the user's cache folder is writable
        kernel = numba.njit(**options)(function)
    KERNELS.append(kernel)
    return kernel


def compilations() -> int:
    """How many kernels this process has compiled, or begun to, instead of reading them from disk."""
    return sum(sum(kernel.stats.cache_misses.values()) for kernel in KERNELS)


def kept_in() -> str | None:
    """The folder of the machine code; None if it is not kept."""
    return next((path for kernel in KERNELS if (path := kernel.stats.cache_path)), None)
