"""From the frames of a video to steady labels: scores are carried along with the motion, and blended with new ones.

    frame --> motion since the frame before --> warp the carried scores --+
      \\--> (key frames) encode_images --> score_image --------------------+--> blend --> label_scores

The carried scores lie on a grid that is :data:`CELLS` times finer than the patches, so frames that see an object at different
places of the patch grid add up to sharper masks. Where the colours do not fit (what was hidden before, and cuts), the new
scores replace the carried ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.errors import InputError
from talk2dino.io.frames import Frame
from talk2dino.methods.base import Method
from talk2dino.models.preprocess import resize_image, to_pixels
from talk2dino.pipeline import DecodeOptions, View, encode_images, label_scores, plan_view, score_image
from talk2dino.stages.motion import Motion, estimate_motion, flow_on_grid, warp
from talk2dino.types import ImageFeatures, Segmentation, TextFeatures

#: Cells of the carried scores per patch and axis.
CELLS = 4
#: Carried scores count as much as so many frames at most.
MOST_WEIGHT = 8.0
#: A frame of which less than this share is found in the one before follows a cut: nothing is carried over.
CUT = 0.55
#: A frame of which less than this share is found in the one before is encoded, also between two key frames.
LOST = 0.75
#: Pixels between which motion is estimated, per patch and axis.
PATCH_PIXELS = 8
#: Frames that are held at once have at most so many pixels together.
PIXELS_AT_ONCE = 24_000_000


@dataclass(frozen=True, eq=False)
class Carried:
    """What one frame hands to the next.

    Attributes:
        scores: (N, h, w) float32.
        weight: (1, h, w) float32, how many frames the scores of a cell count as.
        pixels: (3, h', w') RGB 0..255, the frame, reduced.
        age: frames since the last one that was encoded.
    """

    scores: Tensor
    weight: Tensor
    pixels: Tensor
    age: int

    def arrays(self) -> dict[str, np.ndarray]:
        """For a file; see :meth:`from_arrays`."""
        tensors = {"scores": self.scores, "weight": self.weight, "pixels": self.pixels}
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items()} | {"age": np.array(self.age)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], device: torch.device) -> Carried:
        scores, weight, pixels = (torch.from_numpy(arrays[name]).to(device) for name in ("scores", "weight", "pixels"))
        return cls(scores, weight, pixels, int(arrays["age"]))


@dataclass(frozen=True)
class Planned:
    """A frame with its motion since the frame before (None: nothing can be carried over), and whether it is encoded."""

    frame: Frame
    pixels: Tensor
    motion: Motion | None
    encode: bool


class FrameSegmenter:
    """Segments frames in their order; ``carried`` is what the next frame builds on.

    Args:
        text, method, options, mode: as for :func:`talk2dino.pipeline.segment_images`.
        steady: blend the scores of a frame with those carried along from the frames before.
        keyframe_every: encode every so many frames; the scores of the frames between are carried along.
        batch_size: key frames per forward pass.

    Raises:
        InputError: the method makes segments without names, which cannot be carried from frame to frame.
    """

    def __init__(
        self, text: TextFeatures, method: Method, options: DecodeOptions, *, mode: str = "whole", steady: bool = True,
        keyframe_every: int = 1, batch_size: int = 4, carried: Carried | None = None,
    ) -> None:  # fmt: skip
        if keyframe_every < 1:
            raise InputError(f"keyframe_every must be at least 1; got {keyframe_every}")
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1; got {batch_size}")
        self.carries = steady or keyframe_every > 1
        if self.carries and method.facts.matched:
            raise InputError(
                f"{method.name} makes new segments for each image, which cannot be carried from frame to frame: turn steady "
                "masks off (--no-steady) and encode every frame"
            )
        self.text, self.method, self.options, self.mode = text, method, options, mode
        self.steady, self.keyframe_every, self.batch_size = steady, keyframe_every, batch_size
        self.carried = carried

    @torch.inference_mode()
    def __call__(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Segmentation]]:
        """One segmentation per frame, in order; a few frames are read ahead so that key frames share forward passes."""
        waiting: list[Planned] = []
        view: View | None = None
        for frame in frames:
            view = view or plan_view(frame.image.size, self.mode, self.method)
            waiting.append(self._plan(frame, view, waiting))
            keys = sum(one.encode for one in waiting)
            if keys == self.batch_size or (len(waiting) + 1) * frame.image.array.size > 3 * PIXELS_AT_ONCE:
                yield from self._segment(waiting, view)
                waiting = []
        if waiting and view is not None:
            yield from self._segment(waiting, view)

    def _plan(self, frame: Frame, view: View, waiting: list[Planned]) -> Planned:
        """Find out how the frame moved, and whether it has to be encoded."""
        if not self.carries:
            return Planned(frame, torch.empty(0), None, True)
        pixels = to_pixels(resize_image(frame.image.array, self._reduced(view))).to(self.method.towers.device)
        before = waiting[-1].pixels if waiting else self.carried.pixels if self.carried else None
        if before is None or before.shape != pixels.shape:
            return Planned(frame, pixels, None, True)
        motion = estimate_motion(before, pixels)
        age = self._age(waiting) + 1
        if motion.share < CUT:
            return Planned(frame, pixels, None, True)
        return Planned(frame, pixels, motion, age >= self.keyframe_every or motion.share < LOST)

    def _age(self, waiting: list[Planned]) -> int:
        """Frames since the last encoded one, before the next frame."""
        for distance, one in enumerate(reversed(waiting)):
            if one.encode:
                return distance
        return len(waiting) + (self.carried.age if self.carried else 0)

    def _reduced(self, view: View) -> tuple[int, int]:
        """(height, width) at which frames are compared."""
        factor = max(1, round(self.method.patch_size / PATCH_PIXELS))
        height, width = view.canvas or view.seen
        return max(1, height // factor), max(1, width // factor)

    def _segment(self, planned: list[Planned], view: View) -> Iterator[tuple[Frame, Segmentation]]:
        keys = [one.frame.image for one in planned if one.encode]
        encoded = encode_images(keys, [view] * len(keys), self.method, batch_size=self.batch_size)
        for one in planned:
            image = next(encoded) if one.encode else self._without_patches(one.frame, view)
            scores = score_image(image, self.text, self.method, self.options) if one.encode else None
            if self.carries:
                scores = self._carry(one, scores, image)
            assert scores is not None  # a frame that is not encoded is carried
            result = label_scores(scores, image, self.text, self.method, self.options)
            about = {"frame": one.frame.number, "seconds": round(one.frame.seconds, 6), "encoded": one.encode}
            yield one.frame, replace(result, info=result.info | about)

    def _carry(self, planned: Planned, scores: Tensor | None, image: ImageFeatures) -> Tensor:
        """The scores of the frame: those carried along, blended with its own if there are some."""
        fresh = None if scores is None else _finer(scores.float(), image)
        before, age = self.carried, 0
        if planned.motion is None or before is None:
            assert fresh is not None  # a frame with nothing to carry over is encoded
            mixed, weight = fresh, torch.ones_like(fresh[:1])
        else:
            size = before.scores.shape[1:]
            flow = flow_on_grid(planned.motion.flow, (size[0], size[1]))
            moved = warp(torch.cat([before.scores, before.weight])[None], flow[None])[0]
            agreement = planned.motion.agreement[None, None]
            weight = moved[-1:] * F.interpolate(agreement, size, mode="bilinear", align_corners=True)[0]
            mixed, age = moved[:-1], before.age + 1
            if fresh is not None:
                weight = weight * _alike(mixed, fresh) if self.steady else torch.zeros_like(weight)
                mixed = torch.lerp(fresh, mixed, weight / (weight + 1))
                weight, age = (weight + 1).clamp(max=MOST_WEIGHT), 0
        self.carried = Carried(mixed, weight, planned.pixels, age)
        return mixed

    def _without_patches(self, frame: Frame, view: View) -> ImageFeatures:
        """What labelling needs to know of a frame that was not encoded."""
        device, pixels = self.method.towers.device, None
        if view.boxes is None and self.options.refine:
            pixels = to_pixels(resize_image(frame.image.array, view.seen))[None].to(device)
        elif view.boxes is None:
            pixels = torch.zeros((), device=device).expand(1, 3, *view.seen)  # only their size is read
        rows, columns = (side // self.method.patch_size for side in view.seen)
        return ImageFeatures(
            torch.empty(len(view.boxes or (None,)), rows, columns, 0), frame.image.size, pixels,
            model=self.method.towers.name, space=self.method.space, mode=view.mode, boxes=view.boxes, canvas=view.canvas,
            notes=(*frame.image.notes, *view.notes),
        )  # fmt: skip


def _alike(carried: Tensor, fresh: Tensor) -> Tensor:
    """(1, h, w), 0..1: how well carried and new scores (N, h, w) agree, by their largest difference.

    The measure is how far the best class usually is above the mean of all; for one class, how much its scores vary.
    """
    spread = fresh.std() if len(fresh) == 1 else (fresh.amax(0) - fresh.mean(0)).median()
    return torch.exp(-(((carried - fresh).abs().amax(0, keepdim=True) / spread.clamp(min=1e-6)) ** 2))


def _finer(scores: Tensor, image: ImageFeatures) -> Tensor:
    """(N, h, w) scores of the patch grid on the grid of cells, which has a cell at each patch; finer maps as they are."""
    if tuple(scores.shape[1:]) != image.grid or image.boxes is not None:
        return scores
    size = [CELLS * (side - 1) + 1 for side in image.grid]
    return F.interpolate(scores[None], size, mode="bilinear", align_corners=True)[0]
