"""Do what is left of a plan: the shards without a valid receipt.

Workers need not know of each other. Each takes the first shard that nobody has started, and at the end those that were
started by somebody who may be dead; two workers that make one shard write the same bytes.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from talk2dino.errors import DataError
from talk2dino.progress import ProgressCallback
from talk2dino.scale.places import Place
from talk2dino.scale.plan import Plan, Shard, read_plan, read_shard, shard_name
from talk2dino.scale.receipts import DONE, RESULTS, Receipt, forget, make_receipt, read_standing, write_result
from talk2dino.scale.rows import Row, count_reasons, encode_rows

if TYPE_CHECKING:
    from talk2dino.features.encoders import Encoders
    from talk2dino.segmenter import Segmenter

log = logging.getLogger(__name__)

STARTED = "started"
#: Attempts at a shard after which its images are decoded in a process of their own.
ATTEMPTS_BEFORE_CARE = 2
#: Images of a shard from which on its share of failures can stop a run.
ENOUGH_TO_JUDGE = 20


@dataclass
class WorkResult:
    """What one worker did."""

    shards: int = 0
    rows: int = 0
    failures: int = 0
    skipped: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def exit_code(self) -> int:
        """0 done, 1 every image failed, 3 some failed."""
        if not self.failures:
            return 0
        return 1 if self.failures == self.rows and not self.skipped else 3


class Queue:
    """The shards of a plan that are left for this worker, chosen one at a time.

    Attributes:
        numbers: all shards of this worker.
        left: those without a valid receipt when the queue was made.
        notes: one sentence per damaged receipt; its shard is made again.
    """

    def __init__(self, place: Place, plan: Plan, worker: tuple[int, int] = (1, 1)) -> None:
        self.place, self.plan = place, plan
        place.remove_leftovers(DONE, RESULTS, STARTED)
        self.numbers = plan.numbers(worker)
        standing = read_standing(place, plan, self.numbers)
        self.notes = list(standing.damaged.values())
        forget(place, standing.damaged)
        self.left = [number for number in self.numbers if number not in standing.receipts]
        self.identity = f"{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(4)}"
        self._mine: set[int] = set()

    def __iter__(self) -> Iterator[tuple[Shard, bool]]:
        """Shards, with whether their images are decoded with care because earlier attempts died."""
        while (number := self._next()) is not None:
            self._mine.add(number)
            careful = note_start(self.place, number, self.identity)
            yield read_shard(self.place, self.plan, number), careful

    def _next(self) -> int | None:
        done, started = self.place.names(DONE), self.place.names(STARTED)
        left = [n for n in self.left if n not in self._mine and f"{shard_name(n)}.json" not in done]
        fresh = [n for n in left if f"{shard_name(n)}.json" not in started]
        return next(iter(fresh or left), None)


def note_start(place: Place, number: int, worker: str) -> bool:
    """Count an attempt at a shard; whether its images must be decoded with care because earlier attempts died."""
    name = f"{STARTED}/{shard_name(number)}.json"
    attempts = 1
    if place.exists(name):
        try:
            attempts += int(str(place.read_json(name).get("attempts", 0)))
        except (DataError, ValueError):
            attempts += 1
    place.write_json(name, {"attempts": attempts, "worker": worker})
    return attempts > ATTEMPTS_BEFORE_CARE


def work(
    place: Place, *, worker: tuple[int, int] = (1, 1), device: str = "auto", workers: int | None = None,
    max_failed: float = 0.5, segmenter: Segmenter | None = None, encoders: Encoders | None = None,
    progress: ProgressCallback | None = None,
) -> WorkResult:  # fmt: skip
    """Make the shards of a plan that have no valid receipt.

    Args:
        worker: (i, n): take only part i of n, counted from 1.
        device, workers: as in :class:`talk2dino.folder.FolderOptions`.
        max_failed: share of failed images of a shard that stops the run, because the source or the settings are wrong.
        segmenter, encoders: models that are loaded already.
        progress: called after each image with the images of finished and running shards.

    Raises:
        DataError: no plan, a damaged one, or too many images of a shard failed.
        OutputError: a result cannot be written; what is finished stays.
    """
    plan = read_plan(place)
    queue = Queue(place, plan, worker)
    result = WorkResult(skipped=len(queue.numbers) - len(queue.left))
    for note in queue.notes:
        log.warning("%s; it is made again", note)
    if not queue.left:
        return result
    lock = threading.Lock()
    total = sum(shard_images(plan, number) for number in queue.numbers)
    seen = total - sum(shard_images(plan, number) for number in queue.left)

    def count() -> None:
        nonlocal seen
        seen += 1
        if progress is not None:
            progress(seen, total)

    def add(receipt: Receipt) -> None:
        with lock:
            result.shards += 1
            result.rows += receipt.rows
            result.failures += receipt.failures
            result.reasons.update(receipt.reasons)

    if plan.job == "extract":
        from talk2dino.scale.extract_job import ExtractJob

        extraction = ExtractJob(plan, device=device, workers=workers, encoders=encoders)
        extraction.run(queue, lambda *made: add(save_files(place, *made)), count)
    else:
        from talk2dino.scale.segment_job import SegmentJob

        job = SegmentJob(plan, device=device, workers=workers, segmenter=segmenter)
        job.run(queue, lambda *made: add(save_rows(place, *made, max_failed=max_failed)), count)
    return result


def save_rows(place: Place, shard: Shard, rows: list[Row], seconds: float, *, max_failed: float) -> Receipt:
    """Write the result of a shard and its receipt.

    Raises:
        DataError: more than ``max_failed`` of the images failed; nothing is written.
    """
    reasons = count_reasons(rows)
    failed = sum(reasons.values())
    if len(rows) >= ENOUGH_TO_JUDGE and failed > max_failed * len(rows):
        reason, times = reasons.most_common(1)[0]
        raise DataError(
            f"{failed} of the {len(rows)} images of shard {shard.number} failed, {times} of them because: {reason}. Correct "
            "the source or its credentials, or allow more with --max-failed; nothing was written for this shard"
        )
    return save_files(place, shard, {f"{shard.name}.parquet": encode_rows(rows)}, len(rows), reasons, seconds)


def save_files(
    place: Place, shard: Shard, files: dict[str, bytes], rows: int, reasons: Counter[str], seconds: float
) -> Receipt:
    """Write the files of a shard and its receipt."""
    receipt = make_receipt(shard, files, rows=rows, reasons=reasons, seconds=seconds)
    write_result(place, shard, files, receipt)
    return receipt


def shard_images(plan: Plan, number: int) -> int:
    """Number of images of a shard."""
    return min(plan.shard_size, plan.images - number * plan.shard_size)
