"""The frames of a video, whatever holds them: a video file, a folder of images, an animated image.

open_frames(path) -> FrameSource (times of all frames) -> choose_frames -> source.read(numbers) -> Frame ...
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from talk2dino.errors import ImageError, InputError
from talk2dino.io.find import missing_file, search_images
from talk2dino.io.frames import Frame, FrameSource
from talk2dino.io.images import MAX_PIXELS, LoadedImage, image_size, open_animation, read_image
from talk2dino.io.names import readable
from talk2dino.io.pixels import to_rgb
from talk2dino.io.video import VideoFile

ANIMATION_ENDINGS = (".gif", ".apng", ".png", ".webp")


def open_frames(
    path: str | Path, *, fps: float = 25.0, allow_truncated: bool = False, max_pixels: int | None = MAX_PIXELS
) -> FrameSource:
    """Open a video file, a folder of images (in natural order of their names) or an animated image.

    Args:
        fps: frames per second of a folder; files hold their own times.
        allow_truncated: read the part that is there of a truncated or damaged file.
        max_pixels: refuse frames with more pixels.

    Raises:
        ImageError: missing, not a video, without frames, without an index, truncated or damaged.
        MissingExtraError: a video file, and PyAV is not installed.
        InputError: fps is not positive.
    """
    path = Path(path)
    if not 0 < fps < math.inf:
        raise InputError(f"fps must be a positive number of frames per second; got {fps}")
    if os.path.isdir(path):
        return FrameFolder(path, fps, allow_truncated, max_pixels)
    if not os.path.exists(path):
        raise missing_file(path)
    if path.suffix.lower() in ANIMATION_ENDINGS:
        return Animation(path, max_pixels)
    return VideoFile(path, allow_truncated=allow_truncated, max_pixels=max_pixels)


class FrameFolder:
    """A folder of images as a video (:class:`FrameSource`)."""

    def __init__(self, path: Path, fps: float, allow_truncated: bool, max_pixels: int | None) -> None:
        self.path, self.name, self.fps = path, readable(path), fps
        self._paths = search_images([path]).paths
        self._allow_truncated, self._max_pixels = allow_truncated, max_pixels
        self.size = image_size(self._paths[0]) or self._read(0).size
        self.times = np.arange(len(self._paths)) / fps
        self.duration = len(self._paths) / fps
        self.notes: tuple[str, ...] = ()

    def read(self, numbers: Sequence[int] | np.ndarray) -> Iterator[Frame]:
        for number in map(int, numbers):
            image = self._read(number)
            if image.size != self.size:
                raise ImageError(
                    f"the frames of a video have one size, but {image.name} is {image.size[0]} x {image.size[1]} and the first "
                    f"one {self.size[0]} x {self.size[1]} (height x width)"
                )
            yield Frame(number, float(self.times[number]), image)

    def _read(self, number: int) -> LoadedImage:
        return read_image(self._paths[number], allow_truncated=self._allow_truncated, max_pixels=self._max_pixels)


class Animation:
    """An animated GIF, PNG or WebP as a video (:class:`FrameSource`); transparency is put on white."""

    def __init__(self, path: Path, max_pixels: int | None) -> None:
        self.path, self.name = path, readable(path.name)
        self._max_pixels = max_pixels
        durations = []
        with open(path, "rb") as file:
            image = open_animation(file, self.name, max_pixels)
            self.size = (image.height, image.width)
            for frame in self._frames(image):
                # Browsers show frames without a duration for a tenth of a second.
                durations.append(float(frame.info.get("duration") or 0) / 1000 or 0.1)
        if len(durations) < 2:
            raise ImageError(f"{self.name} is not animated: it has one frame")
        ends = np.cumsum(durations)
        self.times, self.duration = np.concatenate([[0.0], ends[:-1]]), float(ends[-1])
        self.notes: tuple[str, ...] = ()

    def read(self, numbers: Sequence[int] | np.ndarray) -> Iterator[Frame]:
        wanted = {int(number) for number in numbers}
        with open(self.path, "rb") as file:
            for number, frame in enumerate(self._frames(open_animation(file, self.name, self._max_pixels))):
                if number in wanted:
                    array, notes = to_rgb(frame.copy())
                    yield Frame(
                        number, float(self.times[number]), LoadedImage(array, self.name, tuple(notes), self.path)
                    )
                if number == max(wanted, default=-1):
                    return

    def _frames(self, image: Image.Image) -> Iterator[Image.Image]:
        try:
            for frame in ImageSequence.Iterator(image):
                frame.load()
                yield frame
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise ImageError(f"{self.name} is damaged: {error}") from error
