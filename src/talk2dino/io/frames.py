"""Frames of a video: what they are, and which of them are wanted. :func:`talk2dino.io.sequences.open_frames` reads them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from talk2dino.errors import InputError
from talk2dino.io.images import ImageSource, LoadedImage, read_image


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a video.

    Attributes:
        number: its place in the video, from 0.
        seconds: its time stamp, from the first frame of the video.
        image: its pixels, (H, W, 3) uint8 RGB, upright.
    """

    number: int
    seconds: float
    image: LoadedImage


class FrameSource(Protocol):
    """A video that can be read more than once.

    Attributes:
        path, name: the file or folder, and its name in messages.
        size: (height, width) of the frames, upright.
        times: (n,) float64, seconds of each frame from the first one, increasing.
        duration: seconds from the first frame to the end of the last.
        notes: what was done beyond plain reading.
    """

    path: Path
    name: str
    size: tuple[int, int]
    times: np.ndarray
    duration: float
    notes: tuple[str, ...]

    def read(self, numbers: Sequence[int] | np.ndarray) -> Iterator[Frame]:
        """The frames of these increasing numbers.

        Raises:
            ImageError: a frame is damaged or missing.
        """
        ...


def choose_frames(
    times: np.ndarray, *, every: float | None = None, start: float = 0.0, end: float | None = None
) -> np.ndarray:
    """Numbers of the frames from ``start`` to before ``end`` (seconds); with ``every``, the first one of each such period.

    Raises:
        InputError: the video has no frame in between, or a time is out of range.
    """
    if start < 0 or (end is not None and end <= start) or (every is not None and not every > 0):
        raise InputError(
            f"start must be at least 0, end later than start, and every more than 0 s; got start {start:g} s, end "
            f"{'unset' if end is None else f'{end:g} s'}, every {'unset' if every is None else f'{every:g} s'}"
        )
    # Time stamps are multiples of a container's tick: a frame at 0.99999 s belongs to 1 s.
    inside = (times >= start - 1e-3) & (times < (math.inf if end is None else end - 1e-3))
    numbers = np.flatnonzero(inside)
    if not len(numbers):
        last = float(times[-1]) if len(times) else 0.0
        raise InputError(f"no frame lies between start and end; the last frame of the video is at {last:.3f} s")
    if every is not None:
        period = np.floor((times[numbers] - start + 1e-3) / every).astype(np.int64)
        numbers = numbers[np.unique(period, return_index=True)[1]]
    return numbers


def read_seconds(given: str | float) -> float:
    """``"0.5s"``, ``"250ms"``, ``"90"``, ``"1:30"``, ``"0:01:30.5"`` or a number, in seconds.

    Raises:
        InputError: anything else.
    """
    text = str(given).strip().lower()
    clock = re.fullmatch(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", text)
    if clock:
        return 3600 * int(clock[1] or 0) + 60 * int(clock[2]) + float(clock[3])
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|sec|min|m|h)?", text)
    if not found:
        raise InputError(f"{given!r} is not a time; give seconds such as 0.5s, 90 or 1:30")
    return float(found[1]) * {"ms": 1e-3, "min": 60.0, "m": 60.0, "h": 3600.0}.get(found[2] or "s", 1.0)


def frames_of(images: Iterable[ImageSource], fps: float) -> Iterator[Frame]:
    """Number images that the caller reads, such as those of a camera."""
    for number, image in enumerate(images):
        yield Frame(number, number / fps, read_image(image))
