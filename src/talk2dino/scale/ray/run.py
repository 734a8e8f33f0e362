"""A plan on a Ray cluster.

    numbers of shards --> read (CPU tasks) --> label (a pool of actors) --> write (CPU tasks) --> receipts

What travels between the stages are encoded images and finished results, never decoded arrays. Ray starts tasks and actors
again that died; what it cannot save is a shard without a receipt, which the next run makes.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from talk2dino.progress import ProgressCallback
from talk2dino.scale.places import Place
from talk2dino.scale.plan import Plan, read_plan, read_shard
from talk2dino.scale.ray.cluster import LIGHT, Pool, choose_pool, connect, nodes, prepare_context, sentence
from talk2dino.scale.reading import Encoded, SourceReader
from talk2dino.scale.receipts import DONE
from talk2dino.scale.rows import Row, count_reasons
from talk2dino.scale.segment_job import SegmentJob
from talk2dino.scale.work import Queue, WorkResult, note_start, save_files, save_rows, shard_images

if TYPE_CHECKING:
    from ray.data import Dataset

Batch = dict[str, Any]


def run_on_ray(
    uri: str, *, address: str = "auto", max_failed: float = 0.5, pool: Pool | None = None,
    progress: ProgressCallback | None = None,
) -> WorkResult:  # fmt: skip
    """Make the shards of a plan that have no valid receipt, on a Ray cluster.

    The place and the source must be reachable from every node. The results are those of
    :func:`talk2dino.scale.work.work`, byte for byte.

    Args:
        pool: the actors; chosen by the cluster's resources if None.
        progress: called after each shard.

    Raises:
        InputError: no cluster at the address. Talk2DinoError: as ``work``.
    """
    place = Place(uri)
    plan = read_plan(place)
    queue = Queue(place, plan)
    result = WorkResult(skipped=len(queue.numbers) - len(queue.left))
    if not queue.left:
        return result
    mine = connect(address)
    import ray

    stream = _stream if plan.job == "segment" else _stream_extract
    seen = total = sum(shard_images(plan, number) for number in queue.numbers)
    seen -= sum(shard_images(plan, number) for number in queue.left)
    try:
        for row in stream(uri, plan, queue.left, max_failed, pool or choose_pool(nodes(ray))):
            seen += shard_images(plan, row["shard"])
            if progress is not None:
                progress(seen, total)
            if row["rows"] < 0:  # made by another run meanwhile
                result.skipped += 1
                continue
            result.shards += 1
            result.rows += row["rows"]
            result.failures += row["failures"]
            result.reasons.update(json.loads(row["reasons"]))
    except ray.exceptions.RayError as error:
        raise sentence(error) from error
    finally:
        if mine:
            ray.shutdown()
    return result


def _stream(uri: str, plan: Plan, left: list[int], max_failed: float, pool: Pool) -> Iterator[dict[str, Any]]:
    """The receipts of shards as they are written."""
    import ray
    from ray.data import ActorPoolStrategy, TaskPoolStrategy

    prepare_context()
    numbers = ray.data.from_items([{"shard": number} for number in left], override_num_blocks=len(left))
    done = (
        numbers.map_batches(
            _read, batch_size=1, fn_args=(uri,), num_cpus=LIGHT, compute=TaskPoolStrategy(2 * pool.actors)
        )
        .map_batches(
            _Label, batch_size=1, fn_constructor_args=(uri, pool.threads), num_cpus=pool.cpus, num_gpus=pool.gpus or None,
            compute=ActorPoolStrategy(size=pool.actors, max_tasks_in_flight_per_actor=2),
        )
        .map_batches(_write, batch_size=1, fn_args=(uri, max_failed), num_cpus=LIGHT)
    )  # fmt: skip
    return _values(done)


def _stream_extract(uri: str, plan: Plan, left: list[int], max_failed: float, pool: Pool) -> Iterator[dict[str, Any]]:
    """The same for a plan of extract, whose actors read, embed and write."""
    import ray
    from ray.data import ActorPoolStrategy

    prepare_context()
    numbers = ray.data.from_items([{"shard": number} for number in left], override_num_blocks=len(left))
    done = numbers.map_batches(
        _Extract, batch_size=1, fn_constructor_args=(uri, pool.threads), num_cpus=pool.cpus, num_gpus=pool.gpus or None,
        compute=ActorPoolStrategy(size=pool.actors),
    )  # fmt: skip
    return _values(done)


class _Extract:
    """An actor: the encoders and the source, one shard after the other."""

    def __init__(self, uri: str, threads: int) -> None:
        import torch

        from talk2dino.scale.extract_job import ExtractJob

        torch.set_num_threads(threads)
        self.place = Place(uri)
        self.plan = read_plan(self.place)
        self.job = ExtractJob(self.plan)

    def __call__(self, batch: Batch) -> Batch:
        number, made = int(batch["shard"][0]), []
        if not self.place.exists(f"{DONE}/{number:06d}.json"):
            shard = read_shard(self.place, self.plan, number)
            self.job.run([(shard, False)], lambda *one: made.append(save_files(self.place, *one)))
        rows, failures, reasons = (made[0].rows, made[0].failures, made[0].reasons) if made else (-1, 0, {})
        return {"shard": [number], "rows": [rows], "failures": [failures], "reasons": [json.dumps(reasons)]}


def _values(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """Rows as they are finished, with Python's own numbers."""
    for row in dataset.iter_rows():
        yield {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}


def _read(batch: Batch, uri: str) -> Batch:
    """Encoded bytes of a shard's images; none if another run made the shard meanwhile."""
    number = int(batch["shard"][0])
    place = Place(uri)
    plan = read_plan(place)
    if place.exists(f"{DONE}/{number:06d}.json"):
        return {"shard": [number], "contents": [[]], "errors": [[]]}
    found = list(SourceReader(plan.source).read_all(read_shard(place, plan, number).entries))
    return {
        "shard": [number],
        "contents": [[one.content for one in found]],
        "errors": [[one.error or "" for one in found]],
    }


class _Given(SourceReader):
    """A reader whose images have been read already."""

    def __init__(self, found: list[Encoded]) -> None:
        self.found = found

    def read_all(self, entries: object) -> Iterator[Encoded]:
        return iter(self.found)


class _Label:
    """An actor: one model, one shard after the other."""

    def __init__(self, uri: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.place = Place(uri)
        self.plan = read_plan(self.place)
        self.job = SegmentJob(self.plan)
        self.name = f"{os.uname().nodename}-{os.getpid()}"

    def __call__(self, batch: Batch) -> Batch:
        number = int(batch["shard"][0])
        contents, errors = batch["contents"][0], batch["errors"][0]
        made: list[tuple[list[Row], float]] = []
        if len(contents):
            shard = read_shard(self.place, self.plan, number)
            careful = note_start(self.place, number, self.name)
            found = [
                Encoded(*one)
                for one in zip(shard.entries, map(bytes, contents), (e or None for e in errors), strict=True)
            ]
            self.job.reader = _Given(found)
            self.job.run([(shard, careful)], lambda shard, rows, seconds: made.append((rows, seconds)))
        rows, seconds = made[0] if made else ([], 0.0)
        return {"shard": [number], "rows": [json.dumps([row.as_list() for row in rows])], "seconds": [seconds]}


def _write(batch: Batch, uri: str, max_failed: float) -> Batch:
    """Write the result of a shard and its receipt."""
    number, rows = int(batch["shard"][0]), [Row.of_list(values) for values in json.loads(batch["rows"][0])]
    reasons: Counter[str] = count_reasons(rows)
    if rows:
        place = Place(uri)
        shard = read_shard(place, read_plan(place), number)
        save_rows(place, shard, rows, float(batch["seconds"][0]), max_failed=max_failed)
    return {
        "shard": [number], "rows": [len(rows) or -1], "failures": [sum(reasons.values())], "reasons": [json.dumps(reasons)],
    }  # fmt: skip
