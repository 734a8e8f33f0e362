"""The forward pass in as many parts as memory asks for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor

from talk2dino.errors import Talk2DinoError
from talk2dino.models.vision import VisionOutput

log = logging.getLogger(__name__)


class InParts:
    """An engine that halves a batch which does not fit the memory, and remembers how many pictures did.

    Raises:
        Talk2DinoError: a single picture does not fit.
    """

    def __init__(self, run: Callable[[Tensor], VisionOutput]) -> None:
        self.run = run
        self.largest: int | None = None  # pictures at once; None: as many as are given

    def __call__(self, pixels: Tensor) -> VisionOutput:
        count = len(pixels)
        size = min(count, self.largest or count)
        while True:
            try:
                parts = [self.run(part) for part in pixels.split(size)] if size < count else [self.run(pixels)]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    height, width = pixels.shape[2:]
                    raise Talk2DinoError(
                        f"a single picture of {height} x {width} does not fit the memory of {pixels.device}; use "
                        "dtype='bfloat16', a smaller model, mode='slide' for large or long pictures, or device='cpu'"
                    ) from None
            else:
                break
            parts = []
            size = -(-size // 2)
            if self.largest is None:
                log.warning(
                    "%d pictures at once do not fit the memory of %s: going on with %d or fewer. A smaller batch size "
                    "avoids the attempt", count, pixels.device, size,
                )  # fmt: skip
            self.largest = size
            if pixels.device.type == "cuda":
                torch.cuda.empty_cache()
        if len(parts) == 1:
            return parts[0]
        return VisionOutput(
            *(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(VisionOutput))
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory has run out; torch has no class of its own for this on a CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
