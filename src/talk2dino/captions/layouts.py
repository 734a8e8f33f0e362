"""Recognise the layout of a path, and open the source that reads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from talk2dino.captions.coco import CocoSource, find_coco_images
from talk2dino.captions.metadata import MetadataSource
from talk2dino.captions.parquet import ParquetSource
from talk2dino.captions.source import CaptionSource, FirstRecords, JoinedSources
from talk2dino.captions.text_files import TextFileSource
from talk2dino.captions.webdataset import WebDatasetSource
from talk2dino.errors import DataError

METADATA = ("metadata.jsonl", "metadata.csv")
DEFAULT_SPLIT = "train"
#: The split that a word in a file or folder name stands for.
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_READERS: dict[str, Callable[[Path], CaptionSource]] = {
    ".jsonl": MetadataSource, ".csv": MetadataSource, ".tar": WebDatasetSource, ".parquet": ParquetSource,
}  # fmt: skip


def open_sources(
    paths: Sequence[str | Path], *, images: Path | None = None, split: str = DEFAULT_SPLIT, limit: int | None = None
) -> CaptionSource:
    """Open several paths as one source, see :func:`open_source`, or only the first ``limit`` records of it."""
    opened = [open_source(path, images=images, split=split) for path in paths]
    source = opened[0] if len(opened) == 1 else JoinedSources(opened)
    return source if limit is None else FirstRecords(source, limit)


def open_source(path: str | Path, *, images: Path | None = None, split: str = DEFAULT_SPLIT) -> CaptionSource:
    """Recognise the layout of a path and open it.

    Args:
        path: a COCO captions .json; a .jsonl, .csv, .tar or .parquet file; or a folder: of COCO (annotations/ beside
            train2014/ or train2017/), with metadata.jsonl or metadata.csv (directly, or in a folder named after the
            split), of .tar or .parquet files, or of images with .txt files.
        images: the image folder of a COCO .json, if it is not beside it.
        split: which part of a folder to read. "train2017" selects one of two years of COCO. Any split but the default
            raises an error for a folder without splits, and adds a note for a single file, which is read in full.

    Raises:
        DataError: the path does not exist, is not one of these layouts, or does not hold the split.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"no caption source at {path}")
    if path.is_dir():
        return _open_folder(path, images, split)
    if path.suffix != ".json" and path.suffix not in _READERS:
        advice = "; 'talk2dino store convert' reads published feature files" if path.suffix == ".pth" else ""
        expected = "expected .json, .jsonl, .csv, .tar, .parquet or a folder"
        raise DataError(f"{path} is not a caption source: {expected}{advice}")
    source = CocoSource(path, images) if path.suffix == ".json" else _READERS[path.suffix](path)
    if split != DEFAULT_SPLIT:
        source.notes = [
            *source.notes,
            f"{path.name} is a single file: --split {split} is ignored and all of it is read",
        ]
    return source


def _open_folder(path: Path, images: Path | None, split: str) -> CaptionSource:
    if file := _coco_file(path, images, split):
        return CocoSource(file, images)
    if name := next((name for name in METADATA if (path / name).is_file()), None):
        _refuse_split(path, f"a folder with {name}", split)
        return MetadataSource(path / name)
    if files := _visible(file for name in METADATA for file in path.glob(f"*/{name}")):
        return MetadataSource(_files_of_split(path, files, split)[0])
    if files := _visible(path.glob("*.tar")):
        return WebDatasetSource(*_files_of_split(path, files, split))
    if files := _visible(path.rglob("*.parquet")):
        return ParquetSource(*_files_of_split(path, files, split))
    source = TextFileSource(path)
    if not len(source) or not next(path.rglob("*.txt"), None):
        raise DataError(
            f"{path} holds no captions: looked for annotations/captions_{split}20*.json, metadata.jsonl and "
            f"metadata.csv (there and in {split}/), *.tar, *.parquet, and images with a .txt file each"
        )
    _refuse_split(path, "a folder of images with .txt files", split)
    return source


def _visible(files: Iterable[Path]) -> list[Path]:
    """Regular files that are not hidden, sorted; macOS writes ._NAME beside NAME."""
    return sorted(file for file in files if not file.name.startswith(".") and file.is_file())


def _coco_file(path: Path, images: Path | None, split: str) -> Path | None:
    """The captions file of a COCO folder; of two years, the one whose images exist."""
    year = "" if re.search(r"20\d\d$", split) else "20*"
    files = sorted((path / "annotations").glob(f"captions_{split}{year}.json"))
    if len(files) > 1 and images is None:
        files = [file for file in files if find_coco_images(file)] or files
    if len(files) > 1:
        choices = " or ".join(f"--split {file.stem.removeprefix('captions_')}" for file in files)
        raise DataError(f"{path} holds {' and '.join(file.name for file in files)}: choose one with {choices}")
    return files[0] if files else None


def _files_of_split(folder: Path, files: list[Path], split: str) -> list[Path]:
    """The files with the split in their name or in a folder's name below ``folder``; all if no file names a split.

    Raises:
        DataError: the files name splits, but not this one; or none, and a split other than the default was asked for.
    """

    def split_of(file: Path) -> str | None:
        words = re.split(r"[^0-9a-z]+", file.relative_to(folder).with_suffix("").as_posix().lower())
        return next((_SPLITS.get(word, word) for word in words if word in _SPLITS or word == split), None)

    present = sorted({name for name in map(split_of, files) if name})
    if not present:
        _refuse_split(folder, f"a folder of {files[0].suffix} files", split)
        return files
    wanted = _SPLITS.get(split, split)
    if wanted not in present:
        raise DataError(f"{folder} holds the splits {', '.join(present)}, not {split}: choose one with --split")
    return [file for file in files if split_of(file) == wanted]


def _refuse_split(folder: Path, layout: str, split: str) -> None:
    if split != DEFAULT_SPLIT:
        raise DataError(
            f"{folder} is {layout} without splits, so --split {split} cannot be read: leave --split out to read all of "
            "it, or give the folder of the split"
        )
