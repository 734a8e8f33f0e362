"""What is asked of a video, and what became of it. Nothing heavy is imported here."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from talk2dino.errors import InputError
from talk2dino.io.images import MAX_PIXELS
from talk2dino.video.options import VideoOptions

#: What a video can be saved as, and the ending of the file or folder.
VIDEO_SUFFIX: dict[str, str] = {"overlay": ".overlay.mp4", "palette": ".labels", "json": ".jsonl"}


@dataclass(frozen=True)
class VideoJob:
    """One video and where its results go.

    Attributes:
        name: of the results in ``out``.
        save: some of :data:`VIDEO_SUFFIX`.
        settings: ``background``, ``clean``, ``refine`` and ``mode``, as for ``Segmenter.segment_batch``.
        stamp: digest of everything that decides the results; pieces with another stamp are thrown away.
        overlay: options of :class:`VideoOverlay`.
    """

    path: Path
    name: str
    out: Path
    save: tuple[str, ...]
    options: VideoOptions
    settings: dict[str, Any]
    stamp: str
    overlay: dict[str, Any] = field(default_factory=dict)
    allow_truncated: bool = False
    max_pixels: int = MAX_PIXELS
    batch_size: int = 4

    def target(self, kind: str) -> Path:
        return self.out / (self.name + VIDEO_SUFFIX[kind])

    @property
    def work(self) -> Path:
        return self.out / f".{self.name}.video"


@dataclass(frozen=True)
class VideoResult:
    """What became of one video; ``shares`` are means over its frames."""

    path: Path
    frames: int = 0
    seconds: float = 0.0
    shares: dict[str, float] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    error: str | None = None
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """What was found, in one line."""
        largest = ", ".join(f"{name} {100 * share:.1f} %" for name, share in list(self.shares.items())[:8])
        frames = "1 frame" if self.frames == 1 else f"{self.frames} frames"
        return f"{frames}, {self.seconds:.1f} s: {largest}"

    def as_dict(self) -> dict[str, Any]:
        """One JSON line."""
        if self.error is not None:
            return {"video": str(self.path), "error": self.error}
        return {
            "video": str(self.path), "frames": self.frames, "seconds": self.seconds, "shares": self.shares,
            "files": self.files, "info": self.info,
        }  # fmt: skip


def check_kinds(kinds: tuple[str, ...]) -> None:
    """Refuse kinds of results that videos do not have.

    Raises:
        InputError: names them.
    """
    if wrong := [kind for kind in kinds if kind not in VIDEO_SUFFIX]:
        raise InputError(f"a video cannot be saved as {', '.join(wrong)}; accepted: {', '.join(VIDEO_SUFFIX)}")


def source_stamp(path: Path) -> str:
    """The state of a video file, or of the files of a folder."""
    if path.is_file():
        stat = path.stat()
        return f"{stat.st_size}-{stat.st_mtime_ns}"
    entries = sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in os.scandir(path))
    return hashlib.sha256(json.dumps(entries).encode("utf-8", "backslashreplace")).hexdigest()[:16]
