"""What a plan came to: its status, a summary of the results, and one COCO file."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from talk2dino.errors import DataError, InputError, MissingExtraError
from talk2dino.io.atomic import atomic_path
from talk2dino.io.markdown import markdown_table
from talk2dino.io.rle import decompress, run_box
from talk2dino.progress import ProgressCallback
from talk2dino.scale.places import Place
from talk2dino.scale.plan import Plan, read_plan
from talk2dino.scale.receipts import RESULTS, read_standing
from talk2dino.scale.rows import decode_rows
from talk2dino.scale.work import STARTED, shard_images


@dataclass(frozen=True)
class Status:
    """How far a plan is; counts of shards and images, seconds per image, seconds left for one worker."""

    job: str
    shards: int
    done: int
    started: int
    damaged: tuple[str, ...]
    images: int
    images_done: int
    failed: int
    reasons: dict[str, int]
    seconds_per_image: float | None
    seconds_left: float | None
    slowest: tuple[tuple[int, float], ...]
    most_failures: tuple[tuple[int, int], ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_status(place: Place) -> Status:
    """The status of a plan, from its receipts."""
    plan = read_plan(place)
    standing = read_standing(place, plan)
    receipts = list(standing.receipts.values())
    images = sum(receipt.rows for receipt in receipts)
    rate = statistics.median(r.seconds / max(1, r.rows) for r in receipts) if receipts else None
    reasons: Counter[str] = Counter()
    for receipt in receipts:
        reasons.update(receipt.reasons)
    left = plan.images - sum(shard_images(plan, number) for number in standing.receipts)
    return Status(
        plan.job, len(plan.shards), len(receipts), len(place.names(STARTED).keys() - {f"{r.shard:06d}.json" for r in receipts}),
        tuple(standing.damaged.values()), plan.images, images, sum(r.failures for r in receipts), dict(reasons.most_common(5)),
        rate, None if rate is None else rate * left,
        tuple((r.shard, r.seconds) for r in sorted(receipts, key=lambda r: -r.seconds)[:3]),
        tuple((r.shard, r.failures) for r in sorted(receipts, key=lambda r: -r.failures)[:3] if r.failures),
    )  # fmt: skip


def summarise(place: Place) -> dict[str, Any]:
    """Images, area and images of each class, and failures by reason, counted by DuckDB in the Parquet files.

    Raises:
        MissingExtraError: DuckDB is not installed. DataError: no finished shard.
    """
    try:
        import duckdb
    except ImportError:
        raise MissingExtraError.of("duckdb", "scale", "a summary") from None
    plan = _plan_of_segment(place)
    standing = read_standing(place, plan)
    if not standing.receipts:
        raise DataError(f"no shard of {place.uri} is finished: there is nothing to summarise")
    files = [f"{RESULTS}/{name}" for receipt in standing.receipts.values() for name in receipt.files]
    with tempfile.TemporaryDirectory() as folder:
        connection = duckdb.connect(config={"temp_directory": folder})
        if place.local:
            paths = [place.path(name) for name in files]
        else:
            connection.register_filesystem(place.fs)
            paths = [f"{_protocol(place)}://{place.path(name)}" for name in files]
        rows = connection.read_parquet(paths)  # noqa: F841  # named in the queries
        total, failed, area = connection.sql(
            "select count(*), count(error), sum(width::hugeint * height) from rows"
        ).fetchall()[0]
        classes = connection.sql(
            "select c.name, count(*), sum(c.area) from (select unnest(classes) c from rows) group by 1 order by 3 desc, 1"
        ).fetchall()
        reasons = connection.sql(
            "select replace(error, key, 'IMAGE') r, count(*) from rows where error is not null group by 1 order by 2 desc, 1 limit 20"
        ).fetchall()
        connection.close()
    return {
        "images": total, "failed": failed, "pixels": int(area or 0), "shards": len(standing.receipts), "of": len(plan.shards),
        "classes": {name: {"images": images, "area": int(area)} for name, images, area in classes},
        "reasons": dict(reasons),
    }  # fmt: skip


def merge_coco(place: Place, out: Path, *, progress: ProgressCallback | None = None) -> int:
    """Write the results of all shards as one COCO file, in bounded memory; the number of images.

    Images that failed are left out.

    Raises:
        DataError: shards are missing or damaged. OutputError: the file cannot be written.
    """
    plan = _plan_of_segment(place)
    standing = read_standing(place, plan)
    if missing := [number for number in plan.numbers() if number not in standing.receipts]:
        raise DataError(
            f"{len(missing)} of {len(plan.shards)} shards are not finished: run 'talk2dino scale work {place.uri}' first"
        )
    categories = {name: number for number, name in enumerate(plan.classes, 1)}
    images = 0
    with (
        atomic_path(out) as temporary,
        open(temporary, "w", encoding="utf-8") as file,
        tempfile.TemporaryFile("w+") as masks,
    ):
        file.write('{"images": [')
        separator = ""
        for number, receipt in sorted(standing.receipts.items()):
            for image, annotations in _coco(place, receipt.files, images, categories):
                file.write(("," if images else "") + "\n" + json.dumps(image, ensure_ascii=False))
                images += 1
                for annotation in annotations:
                    masks.write(separator + "\n" + json.dumps(annotation))
                    separator = ","
            if progress is not None:
                progress(number + 1, len(plan.shards))
        file.write('\n],\n"annotations": [')
        masks.seek(0)
        while block := masks.read(1 << 20):
            file.write(block)
        named = [{"id": number, "name": name} for name, number in categories.items()]
        file.write('\n],\n"categories": ' + json.dumps(named, ensure_ascii=False) + "}\n")
        file.flush()
        os.fsync(file.fileno())
    return images


def _coco(
    place: Place, files: dict[str, tuple[int, str]], first: int, categories: dict[str, int]
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """COCO's image and annotations of each row of a shard."""
    for name in files:
        for row in decode_rows(place.read(f"{RESULTS}/{name}")):
            if row.size is None:
                continue
            number, (height, width) = first + 1, row.size
            first += 1
            annotations = [
                {
                    "id": number * (len(categories) + 1) + categories[name], "image_id": number, "category_id": categories[name],
                    "segmentation": {"size": [height, width], "counts": rle}, "area": area, "bbox": _box(rle, height),
                    "iscrowd": 0,
                }
                for name, area, rle in row.classes
            ]  # fmt: skip
            yield {"id": number, "file_name": row.key, "width": width, "height": height}, annotations


def _box(rle: str, height: int) -> list[float]:
    counts = decompress(rle)
    ends = np.cumsum(counts)
    return run_box((ends - counts)[1::2], counts[1::2], height)


def _protocol(place: Place) -> str:
    return place.fs.protocol if isinstance(place.fs.protocol, str) else place.fs.protocol[0]


def _plan_of_segment(place: Place) -> Plan:
    plan = read_plan(place)
    if plan.job != "segment":
        raise InputError(f"{place.uri} is a plan of {plan.job}; this needs one of segment")
    return plan


def describe_status(status: Status) -> str:
    """Lines for a person."""
    lines = [
        f"{status.job}: {status.done:,} of {status.shards:,} shards, {status.images_done:,} of {status.images:,} images, "
        f"{status.failed:,} failed"
    ]
    if status.started:
        lines.append(f"started and not finished: {status.started:,} shards")
    if status.seconds_per_image is not None:
        lines.append(
            f"median {status.seconds_per_image:.3f} s per image and worker; left for one worker: {_time(status.seconds_left or 0)}"
        )
        lines.append(
            "slowest shards: " + ", ".join(f"{number} ({_time(seconds)})" for number, seconds in status.slowest)
        )
    if status.most_failures:
        lines.append(
            "most failures: " + ", ".join(f"shard {number} ({count:,})" for number, count in status.most_failures)
        )
    lines += [f"  {count:,} x {reason}" for reason, count in status.reasons.items()]
    return "\n".join([*lines, *(f"damaged: {line}" for line in status.damaged[:5])])


def describe_summary(summary: dict[str, Any]) -> str:
    """A table for a person: images and share of the area of each class."""
    pixels = max(1, summary["pixels"])
    rows = [
        [name, f"{found['images']:,}", f"{100 * found['area'] / pixels:.2f} %"]
        for name, found in summary["classes"].items()
    ]
    lines = [
        f"{summary['shards']:,} of {summary['of']:,} shards: {summary['images']:,} images, {summary['failed']:,} failed", "",
        markdown_table(["class", "images", "area"], rows),
    ]  # fmt: skip
    return "\n".join([*lines, *(f"{count:,} x {reason}" for reason, count in summary["reasons"].items())])


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
