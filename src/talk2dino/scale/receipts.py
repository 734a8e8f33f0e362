"""What is done: a receipt per shard, written after its result.

    results/000012.parquet    one row per image (segment); results/000012.* (extract)
    done/000012.json          rows, failures, size and checksum of the result, seconds, versions

A receipt is valid if it names the shard's list and a result of that size is there. A result without one is made again.
"""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from pydantic import BaseModel, ConfigDict

from talk2dino.errors import DataError, InputError
from talk2dino.io.settings import build_options
from talk2dino.scale.places import Place
from talk2dino.scale.plan import Plan, Shard, shard_name

DONE, RESULTS = "done", "results"
_PACKAGES = ("talk2dino", "torch", "numpy", "pyarrow", "pillow")


class Receipt(BaseModel):
    """One finished shard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard: int
    list: str  # SHA-256 of the shard's list
    files: dict[str, tuple[int, str]]  # name below results/ -> bytes, SHA-256
    rows: int
    failures: int
    reasons: dict[str, int]  # of the failures, the commonest first
    seconds: float
    worker: str
    versions: dict[str, str]


def make_receipt(shard: Shard, files: dict[str, bytes], *, rows: int, reasons: Counter[str], seconds: float) -> Receipt:
    """The receipt of a shard whose result files have these contents."""
    return Receipt(
        shard=shard.number, list=shard.checksum, rows=rows, failures=sum(reasons.values()),
        files={name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()},
        reasons=dict(reasons.most_common(20)), seconds=round(seconds, 3), worker=platform.node(), versions=versions(),
    )  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result's bytes."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_result(place: Place, shard: Shard, files: dict[str, bytes], receipt: Receipt) -> None:
    """Write the files of a result, then its receipt."""
    for name, content in files.items():
        place.write(f"{RESULTS}/{name}", content)
    place.write_json(f"{DONE}/{shard.name}.json", receipt.model_dump(mode="json"))


def read_receipt(place: Place, number: int) -> Receipt:
    """The receipt of a shard.

    Raises:
        DataError: there is none, or it is damaged.
    """
    name = f"{DONE}/{shard_name(number)}.json"
    try:
        return build_options(Receipt, place.read_json(name))
    except InputError as error:
        raise DataError(f"{place.uri}/{name} is damaged: {error}") from None


@dataclass
class Standing:
    """How far a plan is.

    Attributes:
        receipts: of the finished shards, by number.
        damaged: why the receipts of other shards do not count; those shards are made again.
    """

    receipts: dict[int, Receipt] = field(default_factory=dict)
    damaged: dict[int, str] = field(default_factory=dict)


def read_standing(place: Place, plan: Plan, numbers: Iterable[int] | None = None) -> Standing:
    """The valid receipts of a plan; only shards that have one are read, so an early look is quick."""
    standing = Standing()
    there, sizes = place.names(DONE), place.names(RESULTS)
    for number in plan.numbers() if numbers is None else numbers:
        name = shard_name(number)
        if f"{name}.json" not in there:
            continue
        if wrong := _check(place, plan, number, sizes, standing):
            standing.damaged[number] = wrong
    return standing


def _check(place: Place, plan: Plan, number: int, sizes: dict[str, int], standing: Standing) -> str | None:
    """Read a receipt into ``standing``; or what is wrong with it."""
    try:
        receipt = read_receipt(place, number)
    except DataError as error:
        return str(error)
    if receipt.shard != number or receipt.list != plan.shards[number]:
        return f"the receipt of shard {number} belongs to another plan"
    for name, (size, _) in receipt.files.items():
        found = sizes.get(name)
        if found is None:
            return f"the result {name} of shard {number} is missing"
        if found != size:
            return f"the result {name} of shard {number} has {found:,} bytes, expected {size:,}"
    standing.receipts[number] = receipt
    return None


def verify(place: Place, plan: Plan, standing: Standing) -> dict[int, str]:
    """Read every result and compare checksums; what is wrong, by shard."""
    wrong = dict(standing.damaged)
    for number, receipt in standing.receipts.items():
        for name, (_, checksum) in receipt.files.items():
            if hashlib.sha256(place.read(f"{RESULTS}/{name}")).hexdigest() != checksum:
                wrong[number] = f"the result {name} of shard {number} is damaged: its checksum differs"
    return wrong


def forget(place: Place, numbers: Iterable[int]) -> None:
    """Remove receipts, so that their shards are made again."""
    for number in numbers:
        place.remove(f"{DONE}/{shard_name(number)}.json")
