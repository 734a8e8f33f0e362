"""A plan of work: an immutable list of shards, and the settings that every one of them is made with.

    plan.json            settings, checksums of the weights, fingerprint of the source, hashes of the shards; written last
    shards/000012.jsonl  one line per image
    results/, done/      what workers write (:mod:`talk2dino.scale.receipts`)

A run is: the shards without a valid receipt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from talk2dino import __version__
from talk2dino.errors import DataError, InputError
from talk2dino.io.settings import build_options, differences
from talk2dino.progress import ProgressCallback
from talk2dino.scale.listing import Entry, list_source
from talk2dino.scale.places import Place

PLAN = "plan.json"
FORMAT = 1
"""Version of the plan's format; a newer one is refused."""


class Plan(BaseModel):
    """What ``plan.json`` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    version: str = Field(default=__version__, description="of the package that planned")
    job: Literal["segment", "extract"]
    source: str
    images: int
    shard_size: int
    classes: tuple[str, ...] = Field(default=(), description="names that pixels can get")
    settings: dict[str, Any] = Field(description="options of the job that decide its results")
    weights: dict[str, str] = Field(description="checksums of the models")
    fingerprint: str = Field(description="of the list of images")
    shards: tuple[str, ...] = Field(description="SHA-256 of each shard's file")

    def numbers(self, worker: tuple[int, int] = (1, 1)) -> range:
        """Numbers of the shards of worker I of N."""
        return range(worker[0] - 1, len(self.shards), worker[1])


@dataclass(frozen=True)
class Shard:
    """One shard of a plan: its number, the SHA-256 of its list, and its images."""

    number: int
    checksum: str
    entries: tuple[Entry, ...]

    @property
    def name(self) -> str:
        return shard_name(self.number)


def shard_name(number: int) -> str:
    return f"{number:06d}"


def make_plan(
    out: Place, *, job: Literal["segment", "extract"], source: str, settings: Mapping[str, Any],
    weights: Mapping[str, str], classes: Sequence[str] = (), shard_size: int = 2048, entries: Iterable[Entry] | None = None,
    progress: ProgressCallback | None = None,
) -> Plan:  # fmt: skip
    """List a source into shards and write the plan; planning again with the same settings and source changes nothing.

    Memory does not grow with the source.

    Args:
        entries: used instead of listing ``source``.
        progress: called after each shard with the number of images listed.

    Raises:
        InputError: the place holds a plan with other settings; the message names them.
        DataError: the source cannot be listed, or changed since the place was planned.
    """
    if shard_size < 1:
        raise InputError(f"the shard size must be at least 1 image; got {shard_size}")
    values: dict[str, Any] = {
        "job": job, "source": source, "shard_size": shard_size, "settings": dict(settings), "weights": dict(weights),
        "classes": tuple(classes),
    }  # fmt: skip
    before = read_plan(out) if out.exists(PLAN) else None
    if before is not None:
        _check_same(before, values, out)

    def write(name: str, content: bytes) -> None:
        if before is None:
            out.write(name, content)

    checksums, images = _write_shards(entries or list_source(source), shard_size, write, progress)
    total = hashlib.sha256("".join(checksums).encode()).hexdigest()
    if before is not None:
        if before.fingerprint != total:
            raise DataError(
                f"{source} changed since {out.uri} was planned ({before.images:,} images then, {images:,} now): plan the "
                "new state in another place, or bring the source back"
            )
        return before
    plan = Plan(**values, images=images, fingerprint=total, shards=tuple(checksums))
    out.write_json(PLAN, plan.model_dump(mode="json"))
    return plan


def _write_shards(
    entries: Iterable[Entry], size: int, write: Callable[[str, bytes], None], progress: ProgressCallback | None
) -> tuple[list[str], int]:
    """Write the lists of the shards; their checksums and the number of images."""
    checksums: list[str] = []
    entries, images = iter(entries), 0
    while lines := [entry.line() for entry in islice(entries, size)]:
        content = ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")
        write(f"shards/{shard_name(len(checksums))}.jsonl", content)
        checksums.append(hashlib.sha256(content).hexdigest())
        images += len(lines)
        if progress is not None:
            progress(images, 0)
    return checksums, images


def _check_same(before: Plan, now: Mapping[str, Any], out: Place) -> None:
    found = differences({name: getattr(before, name) for name in now}, dict(now))
    if found:
        raise InputError(
            f"{out.uri} holds a plan with other settings ({'; '.join(found[:6])}). Use the same settings, or another place for the new plan"
        )


def read_plan(place: Place) -> Plan:
    """The plan at a place.

    Raises:
        DataError: no plan, a damaged one, or one of a newer version.
    """
    if not place.exists(PLAN):
        raise DataError(f"there is no plan at {place.uri}: make one with 'talk2dino scale plan'")
    values = place.read_json(PLAN)
    if isinstance(values.get("format"), int) and values["format"] > FORMAT:  # type: ignore[operator]
        raise DataError(
            f"the plan at {place.uri} was made by talk2dino {values.get('version')}, which is newer than this one "
            f"({__version__}): update the package"
        )
    try:
        return build_options(Plan, values)
    except InputError as error:
        raise DataError(f"the plan at {place.uri} is damaged: {error}") from None


def read_shard(place: Place, plan: Plan, number: int) -> Shard:
    """One shard of a plan.

    Raises:
        DataError: its list is missing or was changed.
    """
    name = f"shards/{shard_name(number)}.jsonl"
    content = place.read(name)
    checksum = hashlib.sha256(content).hexdigest()
    if checksum != plan.shards[number]:
        raise DataError(
            f"{place.uri}/{name} is not the list that was planned (its checksum differs): plan again in another place"
        )
    lines = content.decode("utf-8", "surrogateescape").splitlines()
    return Shard(number, checksum, tuple(map(Entry.of_line, lines)))


def read_shards(place: Place, plan: Plan, numbers: Iterable[int]) -> Iterator[Shard]:
    return (read_shard(place, plan, number) for number in numbers)
