"""torch.compile: faster kernels, compiled for the first image of each of the first sizes."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import fields

import torch
from torch import Tensor

from talk2dino.errors import InputError
from talk2dino.models.vision import VisionModel, VisionOutput
from talk2dino.progress import warn_when_slow

log = logging.getLogger(__name__)


class CompiledEngine:
    """A vision model compiled by torch. After two sizes the compiler handles any further size without compiling again.

    On a CUDA GPU the kernels are replayed as one CUDA graph per size, and outputs are copied out of its memory.
    """

    def __init__(self, vision: VisionModel) -> None:
        self.vision = vision
        self.graphs = vision.device.type == "cuda"
        self.compiled = torch.compile(vision, mode="reduce-overhead") if self.graphs else torch.compile(vision)
        # The compiler's guards include torch's number of threads: another number compiles again.
        self.seen: set[tuple[int, ...]] = set()
        self.lock = threading.Lock()  # two threads must not compile at once

    @torch.inference_mode()  # always the same mode: another one would compile again
    def __call__(self, pixels: Tensor) -> VisionOutput:
        key = (*pixels.shape, torch.get_num_threads())
        if key in self.seen:
            return self._run(pixels)
        with self.lock:
            wait = f"torch.compile: compiling for {pixels.shape[2]} x {pixels.shape[3]}, which takes ten seconds to minutes"
            started = time.perf_counter()
            if not self.seen:
                log.warning("%s", wait)
            try:
                with warn_when_slow(log, lambda: wait if self.seen else None):  # later sizes may need no compiling
                    out = self._run(pixels)
            except Exception as error:  # the compiler's own classes are many and private
                if not type(error).__module__.startswith("torch._"):
                    raise
                first = next(iter(str(error).strip().splitlines()), "")
                raise InputError(
                    f"torch.compile failed ({type(error).__name__}: {first}); it needs a C++ compiler on a CPU and Triton "
                    "on a GPU. Choose the engine torch"
                ) from error
            spent = time.perf_counter() - started
            if spent > 2:
                log.warning("torch.compile took %.0f s for images of %s x %s", spent, *pixels.shape[2:])
            self.seen.add(key)
        return out

    def _run(self, pixels: Tensor) -> VisionOutput:
        if not self.graphs:
            return self.compiled(pixels)
        torch.compiler.cudagraph_mark_step_begin()
        out = self.compiled(pixels)
        return VisionOutput(*(getattr(out, field.name).clone() for field in fields(VisionOutput)))
