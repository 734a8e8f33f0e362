"""Fast kernels behind stages; each stage keeps the plain version, which is the oracle of the tests and the fallback."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from functools import cache
from typing import Any

log = logging.getLogger(__name__)


@cache
def gpu_kernel(module: str, name: str) -> Callable[..., Any] | None:
    """A function of kernels/``module``.py, or None where Triton, which torch's CUDA builds bring along, is missing."""
    try:
        return getattr(importlib.import_module(f"talk2dino.stages.kernels.{module}"), name)
    except ImportError as error:
        log.warning("%s uses its plain version, which is slower (pip install triton): %s", module, error)
    return None


@cache
def cpu_kernel(module: str, name: str) -> Callable[..., Any] | None:
    """A function of kernels/``module``.py, or None where numba is missing, does not fit this numpy, or is switched off."""
    try:
        import numba

        if not numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
            return getattr(importlib.import_module(f"talk2dino.stages.kernels.{module}"), name)
    except ImportError as error:
        log.info("%s uses its plain version, which is slower (pip install 'talk2dino[fast]'): %s", module, error)
    return None
