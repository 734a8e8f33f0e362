"""Which of the inputs are videos."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from talk2dino.io.find import VIDEO_ENDINGS
from talk2dino.io.sequences import ANIMATION_ENDINGS

_IMAGE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def split_videos(inputs: Sequence[str], *, as_video: bool = False) -> tuple[list[Path], list[str]]:
    """Separate videos from the other inputs.

    Files are videos by their ending or their first bytes, patterns may match videos as well as images. The files of a folder
    are images; a video in it has to be named.

    Args:
        as_video: folders and animated images are videos, too.

    Returns:
        The videos, each once, and the inputs that name images.
    """
    videos: dict[str, Path] = {}
    others = []
    for given in inputs:
        path = Path(given)
        if os.path.isdir(path):
            if not as_video:
                others.append(given)
                continue
            found = [path]
        elif os.path.exists(path) or not glob.has_magic(given):
            found = [path] if is_video(path, as_video=as_video) else []
        else:
            matches = sorted(Path(match) for match in glob.glob(given, recursive=True))
            found = [match for match in matches if match.is_file() and is_video(match, as_video=as_video)]
            if found and len(found) < len(matches):
                others.append(given)  # also matches something else, which may be images
        videos |= {os.path.realpath(one): one for one in found}
        if not found:
            others.append(given)
    return list(videos.values()), others


def is_video(path: Path, *, as_video: bool = False) -> bool:
    """Whether a file is a video by its ending or, with another ending, by its first bytes."""
    ending = path.suffix.lower()
    if ending in VIDEO_ENDINGS:
        return True
    if as_video and ending in ANIMATION_ENDINGS:
        return True
    if not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            start = file.read(12)
    except OSError:
        return False
    return (
        start[:4] == b"\x1aE\xdf\xa3"  # Matroska, WebM
        or (start[4:8] == b"ftyp" and start[8:12] not in _IMAGE_BRANDS)
        or (start[:4] == b"RIFF" and start[8:12] == b"AVI ")
    )
