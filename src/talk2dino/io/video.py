"""Video files, read with PyAV (FFmpeg): the times of all frames first, without decoding, then the frames that are wanted."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from talk2dino.errors import ImageError, MissingExtraError
from talk2dino.io.frames import Frame
from talk2dino.io.images import MAX_PIXELS, LoadedImage
from talk2dino.io.names import readable

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

#: Containers whose time stamps say in which order packets are decoded, not when frames are shown.
_WITHOUT_TIMES = ("avi", "h264", "hevc", "m4v", "mpegvideo")
#: Without colour information, from this height on the colours are those of BT.709, as players assume.
_HD = 720
_BT709, _UNSPECIFIED = 1, 2
#: A file ends early if its frames end so many seconds before what its header says.
_MISSING_SECONDS = 1.0


def load_av() -> Any:
    """PyAV.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import av
        import av.error
    except ImportError:
        raise MissingExtraError.of("av", "video", "reading and writing videos") from None
    return av


class VideoFile:
    """A video file (:class:`talk2dino.io.frames.FrameSource`).

    Opening reads all packets once, without decoding them, to learn when each frame is shown. So frame numbers are exact with
    any frame rate, seeking knows where to go, and a truncated file is noticed before the work. It takes 8 bytes per frame.

    Args:
        allow_truncated: read the part that is there of a truncated or damaged file.
        max_pixels: refuse frames with more pixels.

    Attributes:
        aspect: width of a pixel over its height, upright.
    """

    def __init__(self, path: Path, *, allow_truncated: bool = False, max_pixels: int | None = MAX_PIXELS) -> None:
        self.path, self.name = path, readable(path)
        self.allow_truncated, self.max_pixels = allow_truncated, max_pixels
        self._av = load_av()
        self.size = (0, 0)  # until the first frame is there
        with self._open() as container:
            stream = self._stream(container)
            self._index = stream.index
            self._tick = float(stream.time_base or 1 / 90000)
            rate = stream.average_rate or stream.guessed_rate or stream.base_rate
            frame_seconds = 1 / float(rate) if rate else 0.04
            coded, aspect = (stream.height, stream.width), stream.sample_aspect_ratio or Fraction(1)
            notes = self._scan(container, stream, frame_seconds)
        if not len(self.times):
            raise ImageError(f"{self.name} has a video stream without frames")
        lasts = float(self.times[-1] - self.times[-2]) if len(self.times) > 1 else frame_seconds
        self.duration = float(self.times[-1]) + lasts
        first = self._first_frame()
        self.size = first.image.size
        turned = bool(first.image.notes) and first.image.size[0] != coded[0]
        self.aspect = 1 / aspect if turned else aspect
        self.notes = (*notes, *first.image.notes)

    @property
    def first_seconds(self) -> float:
        """Time stamp of the first frame in the file; sound is shifted by as much."""
        return float(self._stamps[0]) * self._tick if self._stamps is not None else 0.0

    def read(self, numbers: Sequence[int] | np.ndarray) -> Iterator[Frame]:
        wanted = [int(number) for number in numbers]
        if not wanted:
            return
        missing = len(wanted)
        for frame in self._wanted(wanted):
            missing -= 1
            yield frame
        if missing and not self.allow_truncated:
            number = wanted[-missing]
            raise self._damaged(float(self.times[number]), "frames are missing there")

    # --- opening ------------------------------------------------------------------------------------------------------

    def _open(self) -> InputContainer:
        if not os.path.isfile(self.path):
            raise ImageError(f"{self.name} is not a file")
        if os.path.getsize(self.path) == 0:
            raise ImageError(f"{self.name} is empty (0 bytes)")
        try:
            return self._av.open(str(self.path), metadata_errors="replace")
        except self._av.error.InvalidDataError:
            with open(self.path, "rb") as file:
                start = file.read(12)
            if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
                raise ImageError(
                    f"{self.name} has no index (its 'moov' box is missing), as a recording that was interrupted: it cannot be "
                    "read without repairing it or recording it again"
                ) from None
            raise ImageError(f"{self.name} is not a video that can be read") from None
        except (OSError, self._av.error.FFmpegError) as error:
            raise ImageError(f"cannot read {self.name}: {_reason(error)}") from None

    def _stream(self, container: InputContainer) -> VideoStream:
        """The first stream that is a video and not the cover of an album."""
        cover = self._av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not streams:
            others = sorted({stream.type for stream in container.streams})
            holds = "only sound" if "audio" in others else f"only {', '.join(others)}" if others else "no streams"
            raise ImageError(f"{self.name} has no video: it holds {holds}")
        stream = streams[0]
        if stream.codec_context is None:
            raise ImageError(f"{self.name} was compressed in a way that this FFmpeg cannot read")
        stream.thread_type = "AUTO"
        return stream

    def _scan(self, container: InputContainer, stream: VideoStream, frame_seconds: float) -> list[str]:
        """Set the times of all frames and the places to which can be sought; returns notes."""
        from array import array

        stamps, keys, count, ordered = array("q"), array("q"), 0, True
        try:
            for packet in container.demux(stream):
                if packet.size == 0:
                    continue
                count += 1
                if packet.is_discard:
                    continue
                if packet.pts is None:
                    ordered = False
                stamps.append(packet.pts or 0)
                if packet.is_keyframe:
                    keys.append(packet.pts or 0)
        except self._av.error.FFmpegError as error:
            self._tolerate(stamps[-1] * self._tick if stamps else 0.0, error)
        format_names = container.format.name.split(",")
        if ordered and not any(name in _WITHOUT_TIMES for name in format_names):
            self._stamps: np.ndarray | None = np.unique(np.frombuffer(stamps, dtype=np.int64))
            self._keys = np.searchsorted(self._stamps, np.unique(np.frombuffer(keys, dtype=np.int64)))
            self.times = (self._stamps - self._stamps[0]) * self._tick if len(stamps) else np.zeros(0)
        else:
            self._stamps, self._keys = None, np.zeros(1, dtype=np.int64)
            self.times = np.arange(len(stamps)) * frame_seconds
        return self._missing_end(stream, count, frame_seconds)

    def _missing_end(self, stream: VideoStream, count: int, frame_seconds: float) -> list[str]:
        """A note if the file ends before its header says, or the error."""
        ends = float(self.times[-1]) + frame_seconds if len(self.times) else 0.0
        declared = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
        expected = 0.0
        if stream.frames > count:
            expected = ends * stream.frames / max(1, count)
        elif declared:
            expected = 3600 * int(declared[1]) + 60 * int(declared[2]) + float(declared[3])
        if stream.frames > count or expected > ends + _MISSING_SECONDS:
            what = f"{self.name} is truncated: it ends at {ends:.1f} s of {expected:.1f} s"
            if not self.allow_truncated:
                raise ImageError(
                    f"{what}; to segment the part that is there, pass --allow-truncated (in Python: allow_truncated=True)"
                )
            return [f"truncated: read the part that is there, up to {ends:.1f} s"]
        return []

    def _first_frame(self) -> Frame:
        for frame in self._wanted([0]):
            return frame
        raise ImageError(f"{self.name} is damaged: its first frame cannot be decoded")

    # --- decoding -----------------------------------------------------------------------------------------------------

    def _wanted(self, wanted: list[int]) -> Iterator[Frame]:
        """Those of the wanted frames that can be decoded, in order."""
        place, sought = 0, False
        with self._open() as container:
            stream = container.streams[self._index]
            stream.thread_type = "AUTO"
            while True:
                start = self._key_before(wanted[place])
                if self._stamps is not None and (start > 0 or sought):
                    container.seek(int(self._stamps[start]), stream=stream)
                    sought = True
                lost = start > 0  # the seek may go too far, or nowhere
                for number, decoded in self._decode(container, stream):
                    if number > wanted[place] and lost:
                        break
                    lost = False
                    while place < len(wanted) and wanted[place] < number:
                        place += 1  # missing in the file
                    if place < len(wanted) and number == wanted[place]:
                        yield self._frame(number, decoded)
                        place += 1
                    if place == len(wanted):
                        return
                    if self._key_before(wanted[place]) > number + 1:
                        break  # seeking is faster than decoding what lies between
                else:
                    if not lost:
                        return
                if lost:
                    self._keys = np.zeros(1, dtype=np.int64)  # from here on, read without seeking
                    yield from self._wanted(wanted[place:])
                    return

    def _key_before(self, number: int) -> int:
        """The last frame at or before this one at which decoding can start."""
        place = int(np.searchsorted(self._keys, number, side="right")) - 1
        return int(self._keys[place]) if place >= 0 else 0

    def _decode(self, container: InputContainer, stream: Any) -> Iterator[tuple[int, av.VideoFrame]]:
        """(number, frame) in the order in which they are shown."""
        shown = -1
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                frames = packet.decode() if packet is not None else []
            except self._av.error.FFmpegError as error:
                at = float(self.times[min(shown + 1, len(self.times) - 1)])
                self._tolerate(at, error)
                if isinstance(error, EOFError):
                    return
                continue
            if packet is None:
                return
            for frame in frames:
                number = shown + 1
                if self._stamps is not None and frame.pts is not None:
                    number = int(np.searchsorted(self._stamps, frame.pts))
                if number <= shown or number >= len(self.times):
                    continue
                shown = number
                yield number, frame

    def _frame(self, number: int, decoded: Any) -> Frame:
        """Convert to RGB and turn upright."""
        seconds = float(self.times[number])
        height, width = decoded.height, decoded.width
        if self.max_pixels is not None and height * width > self.max_pixels:
            raise ImageError(
                f"the frames of {self.name} have {height * width:,} pixels ({width} x {height}), more than the limit of "
                f"{self.max_pixels:,}; if you trust the file, raise the limit with --max-pixels (in Python: max_pixels=)"
            )
        if decoded.is_corrupt:
            self._tolerate(seconds, "part of a frame is missing")
        colours = {}
        if int(decoded.colorspace) == _UNSPECIFIED and height >= _HD:
            colours = {"src_colorspace": _BT709}
        array = decoded.reformat(format="rgb24", **colours).to_ndarray()
        turns = round(getattr(decoded, "rotation", 0) / 90) % 4
        notes = ("rotation applied",) if turns else ()
        array = np.ascontiguousarray(np.rot90(array, turns)) if turns else array
        if self.size != (0, 0) and array.shape[:2] != self.size:
            raise ImageError(
                f"{self.name} changes its size at {seconds:.2f} s from {self.size[0]} x {self.size[1]} to {array.shape[0]} x "
                f"{array.shape[1]} (height x width); cut it there with --end and --start"
            )
        return Frame(number, seconds, LoadedImage(array, f"{self.name} at {seconds:.3f} s", notes, self.path))

    def _tolerate(self, seconds: float, error: object) -> None:
        if not self.allow_truncated:
            raise self._damaged(seconds, _reason(error))

    def _damaged(self, seconds: float, reason: str) -> ImageError:
        return ImageError(
            f"{self.name} is damaged at {seconds:.2f} s ({reason}); to segment what can be read, pass --allow-truncated (in "
            "Python: allow_truncated=True)"
        )


def _reason(error: object) -> str:
    text = str(getattr(error, "strerror", None) or error)
    with contextlib.suppress(IndexError):
        text = text[:1].lower() + text[1:]
    return text
