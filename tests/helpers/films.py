"""Small videos for tests: written with PyAV, with any codec, time stamps, rotation and sound."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

TICK = Fraction(1, 1000)


def moving_square(count: int, height: int = 61, width: int = 97) -> list[np.ndarray]:
    """Frames of noise in which a bright square moves; each frame is unlike all others."""
    rng = np.random.default_rng(5)
    ground = rng.integers(0, 120, (height, width, 3), dtype=np.uint8)
    frames = []
    for number in range(count):
        frame = ground.copy()
        left = 3 + number % (width - 23)
        frame[19:31, left : left + 13] = (250, 40, 30)
        frame[:7, :7] = number * 5 % 256  # says which frame it is
        frames.append(frame)
    return frames


def write_video(
    path: Path, frames: Sequence[np.ndarray], *, codec: str = "ffv1", pixels: str = "bgr0", rate: int = 25,
    times: Sequence[int] | None = None, options: dict[str, str] | None = None, rotation: int = 0, tone: bool = False,
) -> Path:  # fmt: skip
    """Write frames, without loss by default; ``times`` are milliseconds, ``tone`` adds sound of the same length (AAC)."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
        if rotation:
            stream.set_display_rotation(rotation)
        if times is not None:
            stream.codec_context.time_base = TICK
        sound = out.add_stream("aac", rate=16000, layout="mono") if tone else None
        for number, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], TICK
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound is not None:
            _add_tone(out, sound, len(frames) * 16000 // rate)
    return path


def write_sound(path: Path) -> Path:
    """A file with nothing but a tone."""
    with av.open(str(path), "w") as out:
        _add_tone(out, out.add_stream("aac", rate=16000, layout="mono"), 16000)
    return path


def _add_tone(out: av.container.OutputContainer, stream: av.AudioStream, samples: int) -> None:
    wave = np.sin(np.arange(samples) * 2 * np.pi * 440 / 16000).astype(np.float32) / 3
    for first in range(0, samples, 1024):
        frame = av.AudioFrame.from_ndarray(wave[None, first : first + 1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, first
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def read_back(path: Path) -> tuple[list[np.ndarray], list[float]]:
    """RGB frames and their times, read with PyAV alone."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.to_ndarray(format="rgb24") for frame in frames], [float(frame.time) for frame in frames]
