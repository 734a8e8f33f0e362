"""Find image files: names, folders and glob patterns in, an ordered list of paths out."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from talk2dino.errors import ImageError, suggestion
from talk2dino.io.names import readable

IMAGE_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif", ".qoi", ".heic", ".heif",
)  # fmt: skip

VIDEO_ENDINGS = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".wmv", ".flv", ".3gp", ".ogv",
)  # fmt: skip

STDIN = Path("-")
"""Stands for an image that is read from standard input."""


class FoundImages(NamedTuple):
    """Image files, each once, in the order of the inputs; within a folder or pattern in natural order (2 before 10).

    ``note`` says how many entries of the folders were passed over; it is empty when none was.
    """

    paths: list[Path]
    note: str


def find_images(inputs: str | Path | Sequence[str | Path], recursive: bool = False) -> list[Path]:
    """The paths of :func:`search_images`."""
    return search_images(inputs, recursive).paths


def search_images(inputs: str | Path | Sequence[str | Path], recursive: bool = False) -> FoundImages:
    """List the image files that ``inputs`` name, and count what was passed over.

    Args:
        inputs: files (with any ending: the content decides when the file is read), folders (files with one of
            ``IMAGE_ENDINGS``; hidden files are left out), glob patterns (``"shots/*.png"``, ``"**/*.jpg"``; the same
            endings), and ``"-"`` for standard input.
        recursive: also search the folders inside folders.

    Raises:
        ImageError: an input does not exist (similar names are suggested) or contains no image.
    """
    passed: Counter[str] = Counter()
    found: dict[str, Path] = {}
    for given in [inputs] if isinstance(inputs, str | Path) else inputs:
        for path in _expand(given, recursive, passed):
            found.setdefault("-" if path == STDIN else os.path.realpath(path), path)
    if not found:
        raise ImageError("no images given: name files, folders or patterns such as 'shots/*.jpg'")
    plurals = {"other file": "other files", "hidden entry": "hidden entries", "subfolder": "subfolders"}
    parts = [f"{passed[one]} {one if passed[one] == 1 else many}" for one, many in plurals.items() if passed[one]]
    advice = " (--recursive searches subfolders)" if passed["subfolder"] and not recursive else ""
    return FoundImages(list(found.values()), f"passed over {', '.join(parts)}{advice}" if parts else "")


def missing_file(path: Path) -> ImageError:
    """The error for a file that does not exist, with similar names from the same folder."""
    name = readable(path)
    if re.match(r"(?i)(https?|ftp|s3|gs):/", name):
        return ImageError(f"{name} is a URL, not a file: download it first and pass the path of the file")
    if not os.path.isdir(path.parent):
        return ImageError(f"no such file: {name} (the folder {readable(path.parent)} does not exist)")
    try:
        names = [readable(entry) for entry in os.listdir(path.parent)]
    except OSError:
        names = []
    return ImageError(f"no such file: {name}{suggestion(readable(path.name), names, cutoff=0.6)}")


def _expand(given: str | Path, recursive: bool, passed: Counter[str]) -> list[Path]:
    path = Path(given)
    if path == STDIN:
        return [STDIN]
    if os.path.isdir(path):
        images = _in_natural_order(_in_folder(path, recursive, passed))
        if not images:
            advice = "" if recursive else "; --recursive also searches subfolders"
            videos = [name for name in os.listdir(path) if name.lower().endswith(VIDEO_ENDINGS)]
            if videos:
                count = "1 video" if len(videos) == 1 else f"{len(videos)} videos"
                pattern = path / f"*{Path(videos[0]).suffix}"
                advice = f"; it holds {count}: name videos themselves, for example '{readable(pattern)}'"
            raise ImageError(f"no images in the folder {readable(path)} (looked for {_endings()}){advice}")
        return images
    if os.path.exists(path):
        return [path]
    if glob.has_magic(str(given)):
        matches = map(Path, glob.glob(str(given), recursive=True))
        images = _in_natural_order(match for match in matches if _is_image(match.name) and match.is_file())
        if not images:
            raise ImageError(f"no images match the pattern {readable(given)} (looked for {_endings()})")
        return images
    raise missing_file(path)


def _in_folder(folder: Path, recursive: bool, passed: Counter[str]) -> Iterator[Path]:
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ImageError(f"cannot read the folder {readable(folder)}: {reason}") from error
    for entry in entries:
        if entry.name.startswith("."):
            passed["hidden entry"] += 1
        elif entry.is_dir():
            if not recursive:
                passed["subfolder"] += 1
            elif not entry.is_symlink():  # a link may lead back to a folder above
                try:
                    yield from _in_folder(Path(entry.path), recursive, passed)
                except ImageError:  # one folder that cannot be read does not stop the search
                    passed["subfolder"] += 1
        elif _is_image(entry.name) and entry.is_file():
            yield Path(entry.path)
        else:
            passed["other file"] += 1


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_ENDINGS) and not name.startswith(".")


def _in_natural_order(paths: Iterable[Path]) -> list[Path]:
    """Sort as people count: shot2 before shot10, upper case beside lower case."""

    def key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
        parts = re.split(r"(\d+)", str(path).lower())
        return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], str(path)

    return sorted(paths, key=key)


def _endings() -> str:
    return ", ".join(ending[1:] for ending in IMAGE_ENDINGS[:9]) + ", tiff and others"
