"""Fast kernels behind stages; each stage keeps the plain version, which is the oracle of the tests and the fallback."""

from __future__ import annotations

import contextlib
import importlib
import logging
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from torch import Tensor

from talk2dino.progress import warn_when_slow

log = logging.getLogger(__name__)

Kernel = Callable[..., Any]

_off = False
_said = False  # that the kernels are being compiled
_ran: set[Kernel] = set()
_broken: set[Kernel] = set()


def gpu_kernel(module: str, name: str) -> Kernel | None:
    """A function of kernels/``module``.py, or None where Triton, which torch's CUDA builds bring along, is missing."""
    return None if _off else _load_gpu(module, name)


def cpu_kernel(module: str, name: str) -> Kernel | None:
    """A function of kernels/``module``.py, or None where numba is missing, does not fit this numpy, or is switched off."""
    kernel = None if _off else _load_cpu(module, name)
    return None if kernel in _broken else kernel


@contextlib.contextmanager
def plain_versions() -> Iterator[None]:
    """Every stage runs its plain version inside the block: the reference that the kernels are measured against."""
    global _off
    before, _off = _off, True
    try:
        yield
    finally:
        _off = before


def run_kernel(kernel: Kernel, arguments: tuple[Any, ...], plain: Callable[[], Tensor], stage: str) -> Tensor:
    """What the kernel gives; what ``plain()`` gives if its machine code can be neither read from nor written to disk.

    Errors of the kernel itself are not caught.
    """
    if kernel in _ran:
        return kernel(*arguments)
    try:
        with warn_when_slow(log, _compiling()):
            result = kernel(*arguments)
    except Exception as error:
        if not (isinstance(error, OSError) or _from_the_disk_cache(error)):
            raise
        _broken.add(kernel)
        log.warning(
            "%s uses its plain version, which is slower: its machine code cannot be read from or written to disk (%s: %s).%s",
            stage, type(error).__name__, error, _what_to_delete(),
        )  # fmt: skip
        return plain()
    _ran.add(kernel)
    return result


def _from_the_disk_cache(error: BaseException) -> bool:
    """Whether numba was reading or writing its files when it failed: a damaged one can raise nearly anything."""
    names = [frame.f_code.co_filename.replace("\\", "/") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(name.endswith("numba/core/caching.py") for name in names)


def _compiling() -> Callable[[], str | None]:
    """Says that numba compiles, if it has begun to since now."""
    try:
        from talk2dino.stages.kernels.compiled import compilations, kept_in
    except ImportError:
        return lambda: None
    before = compilations()
    message = "compiling the fast kernels for this processor, which takes some ten seconds"

    def say() -> str | None:
        global _said
        if _said or compilations() == before:
            return None
        _said = True
        return f"{message}, once: they are kept in {kept_in()}" if kept_in() else f"{message} in every process"

    return say


def _what_to_delete() -> str:
    try:
        from talk2dino.stages.kernels.compiled import kept_in
    except ImportError:
        return ""
    return f" Free some space on the disk, or delete the folder {kept_in()}, which is made anew" if kept_in() else ""


@cache
def _load_gpu(module: str, name: str) -> Kernel | None:
    try:
        return getattr(importlib.import_module(f"talk2dino.stages.kernels.{module}"), name)
    except ImportError as error:
        log.warning("%s uses its plain version, which is slower (pip install triton): %s", module, error)
    return None


@cache
def _load_cpu(module: str, name: str) -> Kernel | None:
    if (why := _no_numba()) is not None:
        log.debug("%s uses its plain version: %s", module, why)
        return None
    return getattr(importlib.import_module(f"talk2dino.stages.kernels.{module}"), name)


@cache
def _no_numba() -> str | None:
    """Why there are no CPU kernels, said once; None if there are."""
    try:
        import numba

        importlib.import_module("talk2dino.stages.kernels.compiled")
        why = "numba is switched off (NUMBA_DISABLE_JIT)" if numba.config.DISABLE_JIT else None  # type: ignore[attr-defined]
    except ImportError as error:
        why = f"{error}; pip install 'talk2dino[fast]' brings it"
    if why is not None:
        log.warning("refinement and labels use their plain versions, which are slower: %s", why)
    return why
