"""Find image files: names, folders and glob patterns in, an ordered list of paths out."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from talk2dino.errors import ImageError, suggestion
from talk2dino.io.names import readable

IMAGE_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif", ".qoi", ".heic", ".heif",
)  # fmt: skip

STDIN = Path("-")
"""Stands for an image that is read from standard input."""


@dataclass(frozen=True)
class FoundImages:
    """Image files, and how many entries of the searched folders were passed over.

    Attributes:
        paths: each file once, in the order of the inputs; within a folder or pattern in natural order (2 before 10).
        others: files with other endings, and pipes or devices.
        hidden: files and folders whose names start with a dot.
        folders: folders inside the given folders that were not searched, or could not be read.
        recursive: whether folders inside folders were searched.
    """

    paths: list[Path]
    others: int = 0
    hidden: int = 0
    folders: int = 0
    recursive: bool = False

    @property
    def note(self) -> str:
        """One sentence for the user; empty when nothing was passed over."""
        counts = ((self.others, "other file"), (self.hidden, "hidden entry"), (self.folders, "subfolder"))
        parts = [f"{n} {what if n == 1 else what.replace('entry', 'entrie') + 's'}" for n, what in counts if n]
        advice = " (--recursive searches subfolders)" if self.folders and not self.recursive else ""
        return f"passed over {', '.join(parts)}{advice}" if parts else ""


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
    counts = dict.fromkeys(("others", "hidden", "folders"), 0)
    found: dict[str, Path] = {}
    for given in [inputs] if isinstance(inputs, str | Path) else inputs:
        for path in _expand(given, recursive, counts):
            found.setdefault("-" if path == STDIN else os.path.realpath(path), path)
    if not found:
        raise ImageError("no images given: name files, folders or patterns such as 'shots/*.jpg'")
    return FoundImages(list(found.values()), **counts, recursive=recursive)


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


def _expand(given: str | Path, recursive: bool, counts: dict[str, int]) -> list[Path]:
    path = Path(given)
    if path == STDIN:
        return [STDIN]
    if os.path.isdir(path):
        images = natural_order(_in_folder(path, recursive, counts))
        if not images:
            advice = "" if recursive else "; --recursive also searches subfolders"
            raise ImageError(f"no images in the folder {readable(path)} (looked for {_endings()}){advice}")
        return images
    if os.path.exists(path):
        return [path]
    if glob.has_magic(str(given)):
        matches = map(Path, glob.glob(str(given), recursive=True))
        images = natural_order(match for match in matches if _is_image(match.name) and match.is_file())
        if not images:
            raise ImageError(f"no images match the pattern {readable(given)} (looked for {_endings()})")
        return images
    raise missing_file(path)


def _in_folder(folder: Path, recursive: bool, counts: dict[str, int]) -> Iterator[Path]:
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ImageError(f"cannot read the folder {readable(folder)}: {reason}") from error
    for entry in entries:
        if entry.name.startswith("."):
            counts["hidden"] += 1
        elif entry.is_dir():
            if not recursive:
                counts["folders"] += 1
            elif not entry.is_symlink():  # a link may lead back to a folder above
                try:
                    yield from _in_folder(Path(entry.path), recursive, counts)
                except ImageError:  # one folder that cannot be read does not stop the search
                    counts["folders"] += 1
        elif _is_image(entry.name) and entry.is_file():
            yield Path(entry.path)
        else:
            counts["others"] += 1


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_ENDINGS) and not name.startswith(".")


def natural_order(paths: Iterable[Path]) -> list[Path]:
    """Sort as people count: shot2 before shot10, upper case beside lower case."""

    def key(path: Path) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", str(path).lower())
        return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]

    return sorted(paths, key=lambda path: (key(path), str(path)))


def _endings() -> str:
    return ", ".join(ending[1:] for ending in IMAGE_ENDINGS[:9]) + ", tiff and others"
