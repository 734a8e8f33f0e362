"""What an evaluation has done so far: one line a picture, added as it is done, so that nothing is lost to a kill -9.

folder/config.json              the resolved configuration, written first; another one is refused by the name of what differs
folder/pictures-1-of-2.jsonl    {"name", "counts": [[truth, prediction, pixels], ...], "miou"} a picture

The configuration tells how many pictures the whole run has and a hash of their names, hence what each shard must hold: a
shard that was stopped is told from one that is done.
"""

from __future__ import annotations

import hashlib
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
        config: what decides the result (:func:`talk2dino.evaluation.provenance.resolved_config`); must equal what the
            folder holds, unless that holds no record yet.
        shard: (number from 1, of how many).
        names: pictures of the shard, if known; records of others, and repeated ones, are dropped.
    """

    def __init__(
        self, folder: str | Path, config: dict[str, Any], shard: tuple[int, int] = (1, 1),
        names: Iterable[str] | None = None,
    ) -> None:  # fmt: skip
        self.folder = Path(folder)
        self.path = self.folder / f"pictures-{shard[0]}-of-{shard[1]}.jsonl"
        known = self.folder / "config.json"
        old = sorted(self.folder.glob("pictures-*-of-*.jsonl"))
        if not any(path.stat().st_size for path in old):  # a call that failed before its first picture binds nobody
            for path in old if known.is_file() and _differs(known, config) else ():
                path.unlink()
            write_atomically(known, json.dumps(config, indent=1, ensure_ascii=False))
        elif not known.is_file():
            raise DataError(
                f"{self.folder} holds {old[0].name} without the config.json of its run; choose another --out"
            )
        else:
            check_same(read_config(known), config, self.folder)
        others = {p.stem.rsplit("-of-", 1)[1] for p in self.folder.glob("pictures-*-of-*.jsonl")} - {str(shard[1])}
        if others:
            raise InputError(
                f"{self.folder} holds a run in {others.pop()} shards, not {shard[1]}; choose another --out"
            )
        if not self.path.exists():
            write_atomically(self.path, "")  # a shard without pictures is there, too
        self.records = _read_and_repair(self.path)
        if names is not None:
            self._keep_only(set(names))

    def _keep_only(self, names: set[str]) -> None:
        kept: dict[str, PictureRecord] = {}
        for record in self.records:
            if record.name in names:
                kept.setdefault(record.name, record)
        if len(kept) < len(self.records):
            self.records = list(kept.values())
            write_atomically(self.path, "".join(map(_line, self.records)))

    def add(self, record: PictureRecord) -> None:
        """Write one picture's record through to the disk."""
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(_line(record))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise writing_failed(self.path, error) from error
        self.records.append(record)


def _line(record: PictureRecord) -> str:
    return json.dumps({"name": record.name, "counts": record.counts.tolist(), "miou": record.miou}) + "\n"


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of a run.

    Raises:
        DataError: it is damaged.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        get_benchmark(config["benchmark"])
        int(config["pictures"]["count"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); choose another --out, or remove its folder") from None
    return config


def _differs(path: Path, config: dict[str, Any]) -> bool:
    try:
        check_same(read_config(path), config, path.parent)
    except (DataError, InputError):
        return True
    return False


def check_same(found: dict[str, Any], config: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with a run that was made otherwise; what differs is named."""
    here, now = (_what_decides(json.loads(json.dumps(one))) for one in (found, config))
    differing = sorted(key for key in {*here, *now} if here.get(key) != now.get(key))
    if differing:
        told = "; ".join(f"{key}: {here.get(key)!r} there, {now.get(key)!r} now" for key in differing[:4])
        raise InputError(f"{folder} holds another run ({told}); choose another --out, or remove it")


def _what_decides(config: dict[str, Any]) -> dict[str, Any]:
    """Without where things lay and what it ran on; files count by their content, not by their path."""
    values = {key: value for key, value in config.items() if key not in ("run", "projection", "synonyms")}
    own = values.get("method_options")
    if isinstance(own, dict):
        values["method_options"] = {key: value for key, value in own.items() if key != "prototypes"}
    for key in ("fingerprints", "pictures"):
        inner = values.get(key)
        if isinstance(inner, dict):
            del values[key]
            values |= {f"{key}.{name}": value for name, value in inner.items()}
    return values


def hash_names(names: Iterable[str]) -> str:
    """SHA-256 (first 16 digits) of picture names, whatever their order."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]


def shard_size(count: int, shard: tuple[int, int]) -> int:
    """How many of ``count`` pictures belong to shard (i, n): every n-th from the i-th on."""
    return len(range(shard[0] - 1, count, shard[1]))


def read_journals(folders: Sequence[str | Path]) -> tuple[dict[str, Any], list[PictureRecord], str | None]:
    """All shards of one run, from one or several folders.

    Returns:
        The configuration, the records, and what is missing ("shard 2 of 3 is missing", "shard 1 of 3: 5 of 20
        pictures"), or None when all pictures are there.

    Raises:
        DataError: if a folder holds no run, or other pictures than its configuration tells. InputError: if the folders
            hold different runs, or the same shard with different records.
    """
    config: dict[str, Any] | None = None
    shards: dict[tuple[int, int], tuple[Path, dict[str, PictureRecord]]] = {}
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
            shard = (int(number), int(total))
            records = {record.name: record for record in _read_and_repair(path, repair=False)}
            if shard in shards and not _equal(shards[shard][1], records):
                raise InputError(
                    f"{shards[shard][0]} and {path} are the same shard with different records: give the one to count"
                )
            shards[shard] = (path, records)
    totals = {total for _, total in shards}
    if len(totals) != 1:
        raise InputError(f"the folders hold runs in different numbers of shards: {', '.join(map(str, sorted(totals)))}")
    assert config is not None
    found_records = {shard: records for shard, (_, records) in shards.items()}
    missing = _missing(config, found_records, totals.pop())
    return config, [record for records in found_records.values() for record in records.values()], missing


def _equal(one: dict[str, PictureRecord], other: dict[str, PictureRecord]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name].counts, other[name].counts) for name in one)


def _missing(config: dict[str, Any], shards: dict[tuple[int, int], dict[str, PictureRecord]], total: int) -> str | None:
    """What a merge lacks; a set of pictures that is not the run's is refused."""
    count = int(config["pictures"]["count"])
    absent = [str(number) for number in range(1, total + 1) if (number, total) not in shards]
    lacking = [f"shard {', '.join(absent)} of {total} is missing"] if absent else []
    for number, records in sorted((shard[0], records) for shard, records in shards.items()):
        expected = shard_size(count, (number, total))
        if len(records) > expected:
            raise DataError(f"shard {number} of {total} has {len(records)} pictures, but its run {expected}")
        if len(records) < expected:
            lacking.append(f"shard {number} of {total}: {len(records)} of {expected} pictures")
    names = [name for records in shards.values() for name in records]
    if len(set(names)) < len(names) or (not lacking and hash_names(names) != config["pictures"].get("sha256")):
        raise DataError("the shards hold other pictures than their config.json tells: evaluate them again")
    return "; ".join(lacking) or None


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
