"""torch.compile: fused kernels for the price of a wait at the first picture of each new size."""

from __future__ import annotations

import logging
import threading
import time

import torch
from torch import Tensor

from talk2dino.errors import InputError
from talk2dino.models.vision import VisionModel, VisionOutput

log = logging.getLogger(__name__)


class CompiledEngine:
    """The model through torch.compile; sizes become symbols after the first two, so that not every one is compiled."""

    def __init__(self, vision: VisionModel) -> None:
        self.vision = vision
        self.compiled = torch.compile(vision)
        self.seen: set[tuple[int, ...]] = set()
        self.lock = threading.Lock()  # two threads must not compile at once

    @torch.inference_mode()  # always the same mode: with another one the compiler would start anew
    def __call__(self, pixels: Tensor) -> VisionOutput:
        shape = tuple(pixels.shape)
        if shape in self.seen:
            return self.compiled(pixels)
        with self.lock:
            started = time.perf_counter()
            try:
                out = self.compiled(pixels)
            except Exception as error:  # the compiler's own classes are many and private
                if not type(error).__module__.startswith("torch._"):
                    raise
                first = next(iter(str(error).strip().splitlines()), "")
                raise InputError(
                    f"torch.compile does not work here ({type(error).__name__}: {first}); it needs a C++ compiler on a CPU "
                    "and Triton on a GPU. Use engine='torch'"
                ) from error
            spent = time.perf_counter() - started
            if spent > 2:
                log.warning("torch.compile took %.0f s for pictures of %s x %s", spent, *shape[2:])
            self.seen.add(shape)
        return out
