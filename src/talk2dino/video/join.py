"""Pieces of one video to a single file, without encoding them again, with the sound of the source."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from talk2dino.io.atomic import writing_failed
from talk2dino.io.video import load_av
from talk2dino.video.encode import TICKS

#: Sample rates of AAC.
_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
#: Sound that MP4 holds as it is; everything else becomes AAC.
_COPIED = ("aac", "mp3", "ac3", "eac3", "opus", "flac", "alac")


@dataclass(frozen=True)
class Sound:
    """The sound of the source that belongs to the chosen frames: time stamps in the file, in seconds."""

    path: Path
    start: float
    end: float


def join_pieces(
    pieces: Sequence[tuple[Path, float]], end: float, target: Path, sound: Sound | None = None
) -> list[str]:
    """Write one MP4.

    Args:
        pieces: file and time of its first frame (seconds) of each piece, in order.
        end: when the last frame ends, in seconds.
        target: .mp4.
        sound: copied if MP4 can hold it, else encoded as AAC; None for a silent film.

    Returns:
        A note if the sound could not be kept.

    Raises:
        OutputError: the file cannot be written.
    """
    av = load_av()
    try:
        _join(av, pieces, end, target, sound)
    except (OSError, av.error.FFmpegError, ValueError) as error:
        if sound is None:
            raise writing_failed(target, error) from error
        try:
            _join(av, pieces, end, target, None)
        except (OSError, av.error.FFmpegError, ValueError) as again:
            raise writing_failed(target, again) from again
        return [f"the sound could not be kept ({' '.join(str(error).split())})"]
    return []


def _join(av: Any, pieces: Sequence[tuple[Path, float]], end: float, target: Path, sound: Sound | None) -> None:
    with ExitStack() as stack:
        out = stack.enter_context(av.open(str(target), "w", format="mp4"))
        with av.open(str(pieces[0][0])) as first:
            video = out.add_stream_from_template(first.streams.video[0])
            video.time_base = Fraction(1, TICKS)
        tracks = [_video_packets(av, pieces, end, video)]
        if sound is not None:
            container = stack.enter_context(av.open(str(sound.path), metadata_errors="replace"))
            track = _audio_packets(av, container, sound, out)
            tracks += [] if track is None else [track]
        for _, packet in heapq.merge(*tracks, key=lambda item: item[0]):
            out.mux(packet)


def _video_packets(
    av: Any, pieces: Sequence[tuple[Path, float]], end: float, stream: Any
) -> Iterator[tuple[float, Any]]:
    """(seconds, packet) of all pieces; each packet lasts until the next one begins."""
    held = None
    for path, start in pieces:
        with av.open(str(path)) as container:
            for packet in container.demux(container.streams.video[0]):
                if packet.size == 0:
                    continue
                at = round(start * TICKS) + round(float(packet.pts * packet.time_base) * TICKS)
                if held is not None:
                    yield _lasting(held, at)
                packet.stream, packet.time_base = stream, Fraction(1, TICKS)
                packet.pts = packet.dts = at
                held = packet
    if held is not None:
        yield _lasting(held, round(end * TICKS))


def _lasting(packet: Any, until: int) -> tuple[float, Any]:
    packet.duration = max(1, until - packet.pts)
    return packet.pts / TICKS, packet


def _audio_packets(av: Any, container: Any, sound: Sound, out: Any) -> Iterator[tuple[float, Any]] | None:
    """(seconds, packet) of the sound between start and end; None if there is none."""
    if not container.streams.audio:
        return None
    source = container.streams.audio[0]
    if source.codec_context.name in _COPIED:
        return _copied(av, container, source, sound, out.add_stream_from_template(source))
    rate = source.codec_context.sample_rate
    layout = "mono" if source.codec_context.channels == 1 else "stereo"
    target = out.add_stream("aac", rate=rate if rate in _RATES else 48_000, layout=layout)
    return _encoded(av, container, source, sound, target)


def _copied(av: Any, container: Any, source: Any, sound: Sound, target: Any) -> Iterator[tuple[float, Any]]:
    for packet in _packets(av, container, source, sound.start):
        if packet.size == 0 or packet.pts is None:
            continue
        at = float(packet.pts * packet.time_base)
        if at < sound.start - 1e-6:
            continue
        if at >= sound.end:
            return
        shift = round(sound.start / packet.time_base)
        packet.pts -= shift
        packet.dts = packet.pts
        packet.stream = target
        yield at - sound.start, packet


def _encoded(av: Any, container: Any, source: Any, sound: Sound, target: Any) -> Iterator[tuple[float, Any]]:
    resampler = av.AudioResampler(format="fltp", layout=target.layout, rate=target.codec_context.sample_rate)
    written = 0
    for packet in _packets(av, container, source, sound.start):
        frames = packet.decode()
        for frame in frames:
            if frame.time is not None and frame.time < sound.start - 1e-6:
                continue
            if frame.time is not None and frame.time >= sound.end:
                frames = None
                break
            for plain in resampler.resample(frame):
                plain.pts, plain.time_base = written, Fraction(1, target.codec_context.sample_rate)
                written += plain.samples
                yield from _timed(target.encode(plain))
        if frames is None:
            break
    yield from _timed(target.encode(None))


def _timed(packets: Sequence[Any]) -> Iterator[tuple[float, Any]]:
    return ((float((packet.pts or 0) * packet.time_base), packet) for packet in packets)


def _packets(av: Any, container: Any, source: Any, start: float) -> Iterator[Any]:
    """Packets of the sound from about ``start`` on; what is damaged ends it."""
    if start > 1:
        container.seek(int((start - 1) / source.time_base), stream=source)
    try:
        yield from container.demux(source)
    except av.error.FFmpegError:
        return
