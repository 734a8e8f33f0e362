"""The finished images of an evaluation, written one by one, so that a killed run loses at most one batch.

folder/config.json            the resolved configuration (:meth:`talk2dino.evaluation.protocol.Predictor.config`)
folder/images-1-of-2.jsonl    one line per image: {"name", "counts": [[truth, prediction, pixels], ...], "miou"}

The configuration holds the number of images of the whole run and a hash of their names, so it is known what each shard
must contain. Runs of version 0.1.0 (pictures-1-of-2.jsonl) can be merged and reported, but not resumed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from talk2dino.errors import DataError, InputError
from talk2dino.evaluation.datasets import get_benchmark
from talk2dino.evaluation.metrics import ConfusionMatrix
from talk2dino.io.atomic import write_atomically
from talk2dino.io.journal import Journal, Record, read_journal
from talk2dino.io.lock import folder_lock
from talk2dino.io.settings import check_same_settings, differences, read_json

#: Settings that may differ between two parts of a run. Files count by their content (fingerprints), not by their path.
_FREE = ("run", "projection", "text", "synonyms", "method_options.prototypes")
_RECORDS = re.compile(r"(?:images|pictures)-(\d+)-of-(\d+)\.jsonl")


@dataclass(frozen=True)
class ImageRecord:
    """One evaluated image: its name, (K, 3) rows (truth, prediction, pixels), and its mIoU if it has one."""

    name: str
    counts: np.ndarray
    miou: float | None

    @classmethod
    def of(cls, name: str, matrix: ConfusionMatrix) -> ImageRecord:
        truth, prediction = np.nonzero(matrix.counts)
        counts = np.stack([truth, prediction, matrix.counts[truth, prediction]], axis=1)
        miou = matrix.metrics().miou
        return cls(name, counts, None if np.isnan(miou) else round(miou, 6))

    @classmethod
    def from_json(cls, line: Record, path: Path) -> ImageRecord:
        try:
            return cls(line["name"], np.array(line["counts"], dtype=np.int64).reshape(-1, 3), line["miou"])
        except (ValueError, KeyError, TypeError):
            what = f"{path}: the record of {line.get('name')!r} is damaged"
            raise DataError(f"{what}: remove its line to evaluate it again") from None

    def as_json(self) -> Record:
        return {"name": self.name, "counts": self.counts.tolist(), "miou": self.miou}


def add_up(names: Sequence[str], records: Iterable[ImageRecord]) -> ConfusionMatrix:
    """The confusion matrix of all records."""
    matrix = ConfusionMatrix(names)
    for record in records:
        np.add.at(matrix.counts, (record.counts[:, 0], record.counts[:, 1]), record.counts[:, 2])
    return matrix


@contextlib.contextmanager
def open_shard(
    folder: Path, config: dict[str, Any], shard: tuple[int, int] = (1, 1), names: Iterable[str] | None = None
) -> Iterator[ShardJournal]:
    """The journal of one shard, which no other process can write meanwhile; other shards can be written side by side.

    Raises:
        OutputError: another run is evaluating this shard, or an unfinished run with other settings.
        DataError, InputError: as :class:`ShardJournal`.
    """
    with folder_lock(folder, _lock_name(shard)):
        with folder_lock(folder, wait=60):  # shards that start at once write the same config.json
            journal = ShardJournal(folder, config, shard, names)
        yield journal


def _lock_name(shard: tuple[int, int]) -> str:
    return f".images-{shard[0]}-of-{shard[1]}.lock"


class ShardJournal:
    """The records of one shard of a run; :func:`open_shard` makes one that is safe from other processes.

    Args:
        config: what decides the results. It must agree with the config.json of the folder if that has any record.
        shard: (number, how many), from 1.
        names: the images of the shard. Records of other images, and repeated ones, are dropped.

    Raises:
        DataError: config.json or a record is damaged or missing. InputError: the folder holds another run.
    """

    def __init__(
        self, folder: str | Path, config: dict[str, Any], shard: tuple[int, int] = (1, 1),
        names: Iterable[str] | None = None,
    ) -> None:  # fmt: skip
        folder = Path(folder)
        self.path = folder / f"images-{shard[0]}-of-{shard[1]}.jsonl"
        known, old = folder / "config.json", record_files(folder)
        if not any(
            path.stat().st_size for path in old
        ):  # a run without any record, whose first image failed, is replaced
            before = {}
            with contextlib.suppress(DataError):
                before = read_config(known)
            for path, other in old.items() if differences(before, config, ignore=_FREE) else ():
                with folder_lock(folder, _lock_name(other)) if other != shard else contextlib.nullcontext():
                    path.unlink()
            write_atomically(known, json.dumps(config, indent=1, ensure_ascii=False))
        elif not known.is_file():
            raise DataError(f"{folder} has {next(iter(old)).name} but no config.json: choose another --out")
        else:
            before = read_config(known)
            if before.get("protocol") != config.get("protocol"):
                raise InputError(
                    f"{folder} holds a run of an earlier version of talk2dino, which resized images differently: its figures "
                    "can be merged and reported but not resumed; choose another --out"
                )
            check_same_settings(before, config, folder, ignore=_FREE)
        others = {shards for _, shards in record_files(folder).values()} - {shard[1]}
        if others:
            raise InputError(f"{folder} holds a run with {others.pop()} shards, not {shard[1]}: choose another --out")
        if not self.path.exists():
            write_atomically(self.path, "")  # a shard without images counts as finished
        self._journal = Journal(self.path)
        if names is not None:
            first = {line.get("name"): line for line in reversed(self._journal.records)}
            wanted: dict[object, Record | None] = {name: first.get(name) for name in names}
            self._journal.keep(lambda line: wanted.get(line.get("name")) is line)
        self.records = [ImageRecord.from_json(line, self.path) for line in self._journal.records]

    def add(self, record: ImageRecord) -> None:
        """Write the record of one image to the disk."""
        self._journal.add(record.as_json())
        self.records.append(record)


def record_files(folder: Path) -> dict[Path, tuple[int, int]]:
    """The record files in a folder, with the shard of each."""
    found = {path: _RECORDS.fullmatch(path.name) for path in sorted(folder.glob("*-of-*.jsonl"))}
    return {path: (int(match[1]), int(match[2])) for path, match in found.items() if match}


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of a run; one of version 0.1.0 is brought to today's names."""
    try:
        config = read_json(path, "configuration")
        if "pictures" in config:
            matching = config.get("system", {}).get("matching")
            config |= {"images": config.pop("pictures"), "matched": "image" if matching == "picture" else matching}
        get_benchmark(config["benchmark"])
        int(config["images"]["count"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}): choose another --out, or remove its folder") from None
    return config


def hash_names(names: Iterable[str]) -> str:
    """SHA-256 (first 16 digits) of the names of images, whatever their order."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Run:
    """What folders hold of one run: its configuration, records, and what is missing ("shard 2 of 3 is missing")."""

    config: dict[str, Any]
    records: list[ImageRecord]
    missing: str | None

    @property
    def matrix(self) -> ConfusionMatrix:
        return add_up(get_benchmark(self.config["benchmark"]).names, self.records)


def read_run(folders: Sequence[str | Path]) -> Run:
    """Read all shards of one run from one or several folders.

    Raises:
        DataError: a folder holds no run, or other images than its configuration says. InputError: the runs differ.
    """
    config: dict[str, Any] = {}
    shards: dict[tuple[int, int], tuple[Path, list[ImageRecord]]] = {}
    for folder in map(Path, folders):
        files = record_files(folder)
        if not files or not (folder / "config.json").is_file():
            raise DataError(f"{folder} holds no evaluation: expected config.json and images-1-of-1.jsonl")
        found = read_config(folder / "config.json")
        config = config or found
        if other := differences(config, found, ignore=_FREE):
            raise InputError(f"{folder} and {folders[0]} belong to different runs ({'; '.join(other[:4])})")
        for path, shard in files.items():
            read = [ImageRecord.from_json(line, path) for line in read_journal(path)]
            records = list({record.name: record for record in read}.values())
            first, before = shards.setdefault(shard, (path, records))
            one, two = ({r.name: r.counts.tolist() for r in records} for records in (before, records))
            if one != two:
                raise InputError(f"{first} and {path} are the same shard with different records: pass only one of them")
    totals = sorted({total for _, total in shards})
    if len(totals) != 1:
        raise InputError(f"the folders hold runs with different numbers of shards: {', '.join(map(str, totals))}")
    numbered = {number: records for (number, _), (_, records) in sorted(shards.items(), key=lambda item: item[0])}
    missing = _missing(config, numbered, totals[0])
    return Run(config, [record for records in numbered.values() for record in records], missing)


def _missing(config: dict[str, Any], shards: dict[int, list[ImageRecord]], total: int) -> str | None:
    """What a merge lacks; shards with other images than the run's are refused."""
    count = int(config["images"]["count"])
    absent = [str(number) for number in range(1, total + 1) if number not in shards]
    lacking = [f"shard {', '.join(absent)} of {total} is missing"] if absent else []
    for number, records in shards.items():
        expected = len(range(number - 1, count, total))
        if len(records) > expected:
            raise DataError(f"shard {number} of {total} has {len(records)} images, but its run has {expected}")
        if len(records) < expected:
            lacking.append(f"shard {number} of {total}: {len(records)} of {expected} images")
    names = [record.name for records in shards.values() for record in records]
    if len(set(names)) < len(names):
        raise DataError("the same image is in two shards: evaluate the shards again")
    if not lacking and hash_names(names) != config["images"].get("sha256"):
        raise DataError("the shards hold other images than their config.json says: evaluate them again")
    return "; ".join(lacking) or None
