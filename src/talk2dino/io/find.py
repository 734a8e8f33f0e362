"""Find picture files: names, folders and glob patterns in, an ordered list of paths out."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from talk2dino.errors import ImageError

IMAGE_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif", ".qoi",
)  # fmt: skip


def find_images(inputs: Sequence[str | Path], recursive: bool = False) -> list[Path]:
    """List the picture files that ``inputs`` name.

    Args:
        inputs: files (any ending: the content decides when it is read), folders (files with one of ``IMAGE_ENDINGS``,
            hidden ones left out) and glob patterns (``"shots/*.png"``, ``"**/*.jpg"``; the same endings).
        recursive: also look in the folders inside folders.

    Returns:
        Each file once, in the order of the inputs; within a folder or pattern in natural order (2 before 10).

    Raises:
        ImageError: an input does not exist, or holds no picture; near names are suggested.
    """
    if isinstance(inputs, str | Path):
        inputs = [inputs]
    found: dict[str, Path] = {}
    for given in inputs:
        for path in _expand(given, recursive):
            found.setdefault(os.path.realpath(path), path)
    if not found:
        raise ImageError("no pictures given: name files, folders or patterns such as 'shots/*.jpg'")
    return list(found.values())


def missing_file(path: Path) -> ImageError:
    """The error for a file that is not there, with near names of the same folder."""
    if re.match(r"(?i)(https?|ftp|s3|gs):/", str(path)):
        return ImageError(f"{path} is an address, not a file: download it first and give the file's path")
    folder = path.parent
    if not os.path.isdir(folder):
        return ImageError(f"no such file: {path} (the folder {folder} does not exist)")
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except OSError:
        names = []
    lower = {name.lower(): name for name in names}
    near = [lower[name] for name in difflib.get_close_matches(path.name.lower(), list(lower), n=3, cutoff=0.6)]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return ImageError(f"no such file: {path}{hint}")


def _expand(given: str | Path, recursive: bool) -> list[Path]:
    path = Path(given)
    if os.path.isdir(path):
        pictures = _in_folder(path, recursive)
        if not pictures:
            deeper = "" if recursive else "; folders inside it are searched only when asked (recursive)"
            raise ImageError(f"no pictures in the folder {path} (looked for {_endings()}){deeper}")
        return pictures
    if os.path.exists(path):
        return [path]
    if glob.has_magic(str(given)):
        matches = (Path(match) for match in glob.glob(str(given), recursive=True))
        pictures = natural_order(match for match in matches if _is_picture(match) and match.is_file())
        if not pictures:
            raise ImageError(f"no pictures match the pattern {given} (looked for {_endings()})")
        return pictures
    raise missing_file(path)


def _in_folder(folder: Path, recursive: bool) -> list[Path]:
    if not recursive:
        try:
            return natural_order(entry for entry in folder.iterdir() if _is_picture(entry) and entry.is_file())
        except OSError as error:
            raise ImageError(
                f"cannot look into the folder {folder}: {(error.strerror or str(error)).lower()}"
            ) from error
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if _is_picture(Path(name))]
    return natural_order(path for path in found if path.is_file())


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith(".")


def natural_order(paths: Iterable[Path]) -> list[Path]:
    """Sort as people count: shot2 before shot10, upper case beside lower case."""

    def key(path: Path) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", str(path).lower())
        return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]

    return sorted(paths, key=lambda path: (key(path), str(path)))


def _endings() -> str:
    return ", ".join(ending[1:] for ending in IMAGE_ENDINGS[:9]) + ", tiff and others"
