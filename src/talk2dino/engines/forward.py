"""The forward pass in parts that fit the memory."""

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
    """An engine that halves a batch that does not fit the memory, and remembers how many images did.

    Raises:
        Talk2DinoError: a single image does not fit.
    """

    def __init__(self, run: Callable[[Tensor], VisionOutput]) -> None:
        self.run = run
        self.largest: int | None = None  # images at once; None: no limit known

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
                        f"an image of {height} x {width} does not fit the memory of {pixels.device}; choose the dtype "
                        "bfloat16, a smaller model, the mode slide for large or long images, or the device cpu"
                    ) from None
            else:
                break
            parts = []
            size = -(-size // 2)
            if self.largest is None:
                log.warning(
                    "a batch of %d images does not fit the memory of %s: continuing with %d at a time. A smaller batch size "
                    "avoids this attempt", count, pixels.device, size,
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
    """Whether memory has run out; torch has no exception class for it on a CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
