"""Recognising a layout: from a path and a split to the source that reads it."""

from __future__ import annotations

import re
from pathlib import Path

from talk2dino.captions.coco import CocoCaptions, find_coco_images
from talk2dino.captions.folders import Metadata, TextFiles
from talk2dino.captions.source import CaptionSource
from talk2dino.errors import DataError

METADATA = ("metadata.jsonl", "metadata.csv")
#: What splits are called in the names of files and folders.
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


def open_source(path: str | Path, *, images: Path | None = None, split: str = "train") -> CaptionSource:
    """Recognise a layout.

    Args:
        path: a COCO captions .json; a .tar or .parquet file; or a folder: COCO's (annotations/ beside train2014/ or
            train2017/), one with metadata.jsonl or metadata.csv (there, or in a folder named as the split), one of tars
            or parquet files, or pictures with .txt.
        images: the folder of pictures of a .json, where it is not beside it.
        split: which part of a COCO folder, of a folder of tars or parquet files that have splits in their names, and of
            metadata files one level down; "train2017" tells two years apart.

    Raises:
        DataError: no such file, nothing that looks like one of these, or nothing of that split.
    """
    from talk2dino.captions.parquet import Parquet
    from talk2dino.captions.webdataset import WebDataset

    path = Path(path)
    if not path.exists():
        raise DataError(f"no caption source at {path}")
    if path.is_file():
        if path.suffix == ".json":
            return CocoCaptions(path, images)
        if path.suffix in (".jsonl", ".csv"):
            return Metadata(path)
        if path.suffix == ".tar":
            return WebDataset([path])
        if path.suffix == ".parquet":
            return Parquet([path])
        raise DataError(f"{path}: a caption source is a .json, .jsonl, .csv, .tar or .parquet file, or a folder")
    if file := _coco_file(path, images, split):
        return CocoCaptions(file, images)
    if file := _metadata_file(path, split):
        return Metadata(file)
    if files := sorted(path.glob("*.tar")):
        return WebDataset(_of_split(path, files, split))
    if files := sorted(path.rglob("*.parquet")):
        return Parquet(_of_split(path, files, split))
    source = TextFiles(path)
    if not len(source) or not next(path.rglob("*.txt"), None):
        raise DataError(
            f"{path} holds no captions: looked for annotations/captions_{split}20*.json, metadata.jsonl, metadata.csv "
            f"(there and in {split}/), *.tar, *.parquet, and pictures with a .txt each"
        )
    return source


def _coco_file(path: Path, images: Path | None, split: str) -> Path | None:
    """The captions file of a COCO folder; of two years the one whose pictures are there."""
    year = "" if re.search(r"20\d\d$", split) else "20*"
    files = sorted((path / "annotations").glob(f"captions_{split}{year}.json"))
    if len(files) > 1 and images is None:
        with_pictures = [file for file in files if find_coco_images(file)]
        files = with_pictures or files
    if len(files) > 1:
        raise DataError(
            f"{path} holds {' and '.join(file.name for file in files)}: say which, with --split "
            f"{' or --split '.join(file.stem.removeprefix('captions_') for file in files)}"
        )
    return files[0] if files else None


def _metadata_file(path: Path, split: str) -> Path | None:
    """metadata.jsonl or metadata.csv of a folder, or of its folder that is named as the split."""
    for name in METADATA:
        if (path / name).is_file():
            return path / name
    below = sorted(file for name in METADATA for file in path.glob(f"*/{name}"))
    return _of_split(path, below, split)[0] if below else None


def _of_split(folder: Path, files: list[Path], split: str) -> list[Path]:
    """The files with a split in their name (or in that of a folder above, below ``folder``); all when none has one.

    Raises:
        DataError: there are splits, but not this one.
    """
    told = {file: _split_of(file.relative_to(folder).with_suffix(""), split) for file in files}
    there = sorted({name for name in told.values() if name})
    if not there:
        return files
    wanted = _SPLITS.get(split, split)
    if wanted not in there:
        raise DataError(f"{folder} holds the splits {', '.join(there)}, but none named {split}: choose with --split")
    return [file for file in files if told[file] == wanted]


def _split_of(name: Path, split: str) -> str | None:
    for word in re.split(r"[^0-9a-z]+", name.as_posix().lower()):
        if word in _SPLITS or word == split:
            return _SPLITS.get(word, word)
    return None
