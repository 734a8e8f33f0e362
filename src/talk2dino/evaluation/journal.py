"""What an evaluation has done so far: one line a picture, added as it is done, so that nothing is lost to a kill -9.

folder/config.json              what was asked, written first; another configuration is refused
folder/pictures-1-of-2.jsonl    {"name", "counts": [[truth, prediction, pixels], ...], "miou"} a picture
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from talk2dino.errors import DataError, InputError
from talk2dino.evaluation.datasets import get_benchmark
from talk2dino.evaluation.metrics import ConfusionMatrix
from talk2dino.io.atomic import write_atomically, writing_failed


@dataclass(frozen=True)
class PictureRecord:
    """One evaluated picture: its name, its counts as (K, 3) rows (truth, prediction, pixels), its own mIoU."""

    name: str
    counts: np.ndarray
    miou: float | None

    @classmethod
    def of(cls, name: str, matrix: ConfusionMatrix) -> PictureRecord:
        truth, prediction = np.nonzero(matrix.counts)
        counts = np.stack([truth, prediction, matrix.counts[truth, prediction]], axis=1)
        miou = matrix.metrics().miou
        return cls(name, counts, None if np.isnan(miou) else round(miou, 6))

    def add_to(self, matrix: ConfusionMatrix) -> None:
        np.add.at(matrix.counts, (self.counts[:, 0], self.counts[:, 1]), self.counts[:, 2])


class Journal:
    """Records of one shard of a run.

    Args:
        folder: where config.json and the records lie.
        config: what was asked; must equal what the folder holds.
        shard: (number from 1, of how many).
    """

    def __init__(self, folder: str | Path, config: dict[str, Any], shard: tuple[int, int] = (1, 1)) -> None:
        self.folder = Path(folder)
        self.path = self.folder / f"pictures-{shard[0]}-of-{shard[1]}.jsonl"
        known = self.folder / "config.json"
        if known.is_file():
            found = read_config(known)
            check_same(found, config, self.folder)
            others = {p.stem.rsplit("-of-", 1)[1] for p in self.folder.glob("pictures-*-of-*.jsonl")} - {str(shard[1])}
            if others:
                raise InputError(
                    f"{self.folder} holds a run in {others.pop()} shards, not {shard[1]}; choose another --out"
                )
        elif old := sorted(self.folder.glob("pictures-*-of-*.jsonl")):
            raise DataError(
                f"{self.folder} holds {old[0].name} without the config.json of its run; choose another --out"
            )
        else:
            write_atomically(known, json.dumps(config, indent=1, ensure_ascii=False))
        if not self.path.exists():
            write_atomically(self.path, "")  # a shard without pictures is there, too
        self.records = _read_and_repair(self.path)
        self.done = {record.name for record in self.records}

    def add(self, record: PictureRecord) -> None:
        """Write one picture's record through to the disk."""
        line = json.dumps({"name": record.name, "counts": record.counts.tolist(), "miou": record.miou})
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise writing_failed(self.path, error) from error
        self.records.append(record)
        self.done.add(record.name)


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of a run.

    Raises:
        DataError: it is damaged.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        get_benchmark(config["benchmark"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); choose another --out, or remove its folder") from None
    return config


def check_same(found: dict[str, Any], config: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with a run that was asked for differently."""
    config = json.loads(json.dumps(config))
    differing = sorted(key for key in {*found, *config} if found.get(key) != config.get(key))
    if differing:
        told = "; ".join(f"{key}: {found.get(key)!r} there, {config.get(key)!r} now" for key in differing[:4])
        raise InputError(f"{folder} holds another run ({told}); choose another --out, or remove it")


def read_journals(folders: Sequence[str | Path]) -> tuple[dict[str, Any], list[PictureRecord], str | None]:
    """All shards of one run, from one or several folders.

    Returns:
        The configuration, the records, and what is missing ("shard 2 of 2"), or None when all shards are there.

    Raises:
        DataError: if a folder holds no run. InputError: if the folders hold different runs.
    """
    config: dict[str, Any] | None = None
    shards: dict[tuple[int, int], list[PictureRecord]] = {}
    for folder in map(Path, folders):
        paths = sorted(folder.glob("pictures-*-of-*.jsonl"))
        if not paths or not (folder / "config.json").is_file():
            raise DataError(f"{folder} holds no evaluation: expected config.json and pictures-1-of-1.jsonl")
        found = read_config(folder / "config.json")
        if config is None:
            config = found
        check_same(found, config, folder)
        for path in paths:
            number, total = path.stem.removeprefix("pictures-").split("-of-")
            shards[int(number), int(total)] = _read_and_repair(path, repair=False)
    totals = {total for _, total in shards}
    if len(totals) != 1:
        raise InputError(f"the folders hold runs in different numbers of shards: {', '.join(map(str, sorted(totals)))}")
    (count,) = totals
    absent = [str(number) for number in range(1, count + 1) if (number, count) not in shards]
    missing = f"shard {', '.join(absent)} of {count}" if absent else None
    assert config is not None
    return config, [record for records in shards.values() for record in records], missing


def _read_and_repair(path: Path, *, repair: bool = True) -> list[PictureRecord]:
    """Records of a file; an unfinished last line (a run that was killed while writing) is cut off."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if repair and whole != content:
        write_atomically(path, whole)
    records = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            values = json.loads(line)
            counts = np.array(values["counts"], dtype=np.int64).reshape(-1, 3)
            records.append(PictureRecord(values["name"], counts, values["miou"]))
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f"{path}, line {number} is damaged; remove the line to evaluate that picture again"
            ) from None
    return records


def add_up(names: Iterable[str], records: Iterable[PictureRecord]) -> ConfusionMatrix:
    """The confusion matrix of all records."""
    matrix = ConfusionMatrix(tuple(names))
    for record in records:
        record.add_to(matrix)
    return matrix
