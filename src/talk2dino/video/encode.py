"""Frames to a piece of video: H.264 in MP4, without sound."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from talk2dino.errors import OutputError
from talk2dino.io.atomic import writing_failed
from talk2dino.io.video import load_av

#: Ticks per second of the time stamps that are written.
TICKS = 90_000
#: Encoders in order of preference, with their options. Without B-frames, packets are stored in the order of their times, so
#: that pieces can be joined.
_ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "veryfast", "crf": "20", "bf": "0"},
    "libopenh264": {"b": "6M"},
    "mpeg4": {"qscale": "3", "bf": "0"},
}
_BT709 = 1


class PieceWriter:
    """Writes one piece; its time stamps begin at 0.

    Args:
        path: .mp4; the caller takes care that it is complete or not there.
        size: (height, width), both even.
        rate: frames per second on average, a hint for the encoder.
        aspect: width of a pixel over its height.

    Raises:
        OutputError: the file cannot be written, or this FFmpeg has no encoder for MP4.
    """

    def __init__(self, path: Path, size: tuple[int, int], rate: float, aspect: Fraction = Fraction(1)) -> None:
        av = load_av()
        self._av, self.path = av, path
        name = next((name for name in _ENCODERS if name in av.codecs_available), None)
        if name is None:
            raise OutputError(f"PyAV's FFmpeg has none of the encoders {', '.join(_ENCODERS)}: no MP4 can be written")
        try:
            self._container = av.open(str(path), "w", format="mp4")
        except (OSError, av.error.FFmpegError) as error:
            raise writing_failed(path, error) from error
        stream: Any = self._container.add_stream(name, rate=Fraction(rate).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.options = _ENCODERS[name]
        stream.codec_context.time_base = Fraction(1, TICKS)
        stream.codec_context.sample_aspect_ratio = aspect
        stream.codec_context.colorspace = _BT709
        stream.codec_context.color_primaries = stream.codec_context.color_trc = _BT709
        self._stream = stream

    def add(self, image: np.ndarray, seconds: float) -> None:
        """Add a frame: (H, W, 3) uint8 RGB, and its time from the beginning of the piece."""
        frame = self._av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=_BT709)
        frame.pts, frame.time_base = round(seconds * TICKS), Fraction(1, TICKS)
        self._mux(frame)

    def _mux(self, frame: Any) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except (OSError, self._av.error.FFmpegError) as error:
            raise writing_failed(self.path, error) from error

    def __enter__(self) -> PieceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._mux(None)
        finally:
            try:
                self._container.close()
            except (OSError, self._av.error.FFmpegError) as problem:
                if kind is None:
                    raise writing_failed(self.path, problem) from problem
