"""A plan on a Ray cluster, and segmentation as one step of somebody's Ray Data pipeline. The only file that imports Ray.

    numbers of shards --> read (CPU tasks) --> label (a pool of actors) --> write (CPU tasks) --> receipts

What travels between the stages are encoded images and finished results, never decoded arrays. Ray starts tasks and actors
again that died; what it cannot save is a shard without a receipt, which the next run makes.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from talk2dino.errors import InputError, MissingExtraError, Talk2DinoError
from talk2dino.progress import ProgressCallback
from talk2dino.scale.places import Place
from talk2dino.scale.plan import Plan, read_plan, read_shard
from talk2dino.scale.reading import Encoded, SourceReader
from talk2dino.scale.receipts import DONE
from talk2dino.scale.rows import Row, count_reasons
from talk2dino.scale.segment_job import SegmentJob
from talk2dino.scale.work import Queue, WorkResult, note_start, save_rows, shard_images

if TYPE_CHECKING:
    from ray.data import Dataset

    from talk2dino.words.prompts import PromptList, Prompts

log = logging.getLogger(__name__)

#: Logical CPUs of a task that reads or writes: it waits most of its time.
LIGHT = 0.25
#: Logical CPUs of an actor on machines without a GPU, at most.
CPUS_PER_ACTOR = 4
OLDEST = (2, 40)

Batch = dict[str, Any]


@dataclass(frozen=True)
class Pool:
    """The actors that label: how many, and what each takes of a machine; ``threads`` are of torch."""

    actors: int
    cpus: float
    gpus: float
    threads: int


def connect(address: str, *, cpus: int | None = None, object_store_mb: int = 512) -> bool:
    """Connect to a cluster; whether this call did it (and should end it).

    Args:
        address: "auto" (the cluster of this machine), "local" (start one on this machine) or the address of a head node.
        cpus: of a local cluster; the cores available by default.
        object_store_mb: memory of a local cluster's object store.

    Raises:
        MissingExtraError: Ray is missing or too old. InputError: no cluster at the address.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError.of("ray", "scale", "running on a cluster") from None
    if tuple(int(part) for part in ray.__version__.split(".")[:2]) < OLDEST:
        raise MissingExtraError(f"Ray {ray.__version__} is too old: this needs {'.'.join(map(str, OLDEST))} or newer")
    if ray.is_initialized():
        return False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # details are in Ray's own log files
    environment = {"env_vars": {"OMP_WAIT_POLICY": "passive", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}}
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "runtime_env": environment}
    try:
        if address == "local":
            from talk2dino.threads import available_cores

            ray.init(
                "local", num_cpus=cpus or available_cores(), include_dashboard=False,
                object_store_memory=object_store_mb * 2**20, **common,
            )  # fmt: skip
        else:
            ray.init(address, **common)
    except (ConnectionError, ValueError, RuntimeError, OSError, TimeoutError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"no Ray cluster answers at {address!r} ({reason}): start one with 'ray start --head', or use --ray local"
        ) from None
    return True


def choose_pool(nodes: list[Mapping[str, float]]) -> Pool:
    """The pool for a cluster of nodes with these resources; at least a quarter of a node's CPUs stay free for reading."""
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    cpus = sum(int(node.get("CPU", 0)) for node in nodes)
    if cpus < 1:
        raise InputError("the cluster has no CPUs to work with")
    if gpus:
        return Pool(gpus, 1, 1, max(1, int(cpus / gpus) - 1))
    smallest = min(int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1)
    each = max(1, min(CPUS_PER_ACTOR, smallest - 1))
    actors = max(1, sum(max(0, int(node.get("CPU", 0)) - 1) // each for node in nodes))
    if actors == 1 and cpus <= 2:  # reading takes little: torch may use both cores
        return Pool(1, 1, 0, cpus)
    return Pool(actors, each, 0, each)


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

    seen = total = sum(shard_images(plan, number) for number in queue.numbers)
    seen -= sum(shard_images(plan, number) for number in queue.left)
    try:
        for row in _stream(uri, plan, queue.left, max_failed, pool or choose_pool(_nodes(ray))):
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
        raise _sentence(error) from error
    finally:
        if mine:
            ray.shutdown()
    return result


def _nodes(ray: Any) -> list[Mapping[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _stream(uri: str, plan: Plan, left: list[int], max_failed: float, pool: Pool) -> Iterator[dict[str, Any]]:
    """The receipts of shards as they are written."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = 0  # an error ends the run with its reason; more would hide a dead actor
    context.execution_options.preserve_order = False
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
    for row in done.iter_rows():
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


def _sentence(error: Exception) -> Talk2DinoError:
    """The error of a task as this package's own, or what became of the cluster."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, Talk2DinoError):
            return type(cause)(str(cause).splitlines()[-1].partition("Error: ")[2] or str(cause))
        cause = getattr(cause, "cause", None) or cause.__cause__
    reason = " ".join(str(error).split())[-400:]
    return Talk2DinoError(
        f"the cluster stopped the run ({type(error).__name__}: {reason}); the same command goes on with what is left"
    )


# --- one step of somebody's pipeline ---------------------------------------------------------------------------------


def segment_dataset(
    dataset: Dataset, prompts: Prompts | PromptList, *, column: str = "image", model: str = "auto", method: str = "talk2dino",
    batch_size: int = 16, pool: Pool | None = None, background: bool | float | None = None, clean: bool | None = None,
    refine: bool = False, mode: str = "whole", **options: Any,
) -> Dataset:  # fmt: skip
    """Add masks to a Ray Data set of images.

    Args:
        dataset: with a column of encoded images (bytes) or (H, W, 3) uint8 arrays.
        column: its name.
        model, method, options: as in :meth:`talk2dino.Segmenter.from_pretrained`.
        background, clean, refine, mode: as in :meth:`talk2dino.Segmenter.segment_batch`.

    Returns:
        The data set with the columns ``classes``, a list of {name, area, rle} per image, and ``error``, empty if there was
        none.

    Raises:
        InputError: the data set has no such column.
    """
    import ray
    from ray.data import ActorPoolStrategy

    names = dataset.columns() or []
    if column not in names:
        raise InputError(f"the data set has no column {column!r}; it has {', '.join(names)}")
    pool = pool or choose_pool(_nodes(ray))
    settings = {"background": background, "clean": clean, "refine": refine, "mode": mode}
    return dataset.map_batches(
        _Segment, batch_size=batch_size, num_cpus=pool.cpus, num_gpus=pool.gpus or None,
        compute=ActorPoolStrategy(size=pool.actors),
        fn_constructor_args=(column, model, prompts, settings, pool.threads, {"method": method, **options}),
    )  # fmt: skip


class _Segment:
    """An actor of :func:`segment_dataset`."""

    def __init__(
        self, column: str, model: str, prompts: Any, settings: dict[str, Any], threads: int, options: dict[str, Any]
    ) -> None:
        import torch

        from talk2dino.segmenter import Segmenter

        torch.set_num_threads(threads)
        self.column, self.settings = column, settings
        self.segmenter = Segmenter.from_pretrained(model, **options)
        self.text = self.segmenter.encode_text(prompts)

    def __call__(self, batch: Batch) -> Batch:
        rows = []
        for image in batch[self.column]:
            try:
                result = self.segmenter.segment(image, self.text, **self.settings)
                rows.append(Row.of("", result))
            except Talk2DinoError as error:
                rows.append(Row("", error=str(error)))
        classes = np.empty(len(rows), dtype=object)
        for i, row in enumerate(rows):
            classes[i] = [{"name": name, "area": area, "rle": rle} for name, area, rle in row.classes]
        return {**batch, "classes": classes, "error": np.array([row.error or "" for row in rows], dtype=object)}
