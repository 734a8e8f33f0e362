"""Shards of ``extract``: each is one part of the store, with the bytes that one process would write.

results/000012.safetensors, .jsonl   features, keys and captions
results/000012.manifest.json         manifest of the part
results/000012.skipped.jsonl         records that could not be used, if there are any
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from talk2dino.captions import CaptionSource, open_sources
from talk2dino.errors import InputError
from talk2dino.features.encoders import Encoders, load_encoders
from talk2dino.features.extraction import extract
from talk2dino.features.manifest import NAME, Manifest
from talk2dino.features.options import ExtractOptions
from talk2dino.features.writer import SKIPPED, merge_stores
from talk2dino.io.journal import read_journal
from talk2dino.io.settings import build_options, differences
from talk2dino.progress import ProgressCallback
from talk2dino.scale.listing import Entry
from talk2dino.scale.places import Place
from talk2dino.scale.plan import Plan, Shard, make_plan, read_plan
from talk2dino.scale.receipts import RESULTS, read_standing

#: Options of an extraction that belong to a process or to the place, not to the plan.
NOT_SETTINGS = {"out", "shard", "records_per_shard", "workers", "device"}


def extract_settings(options: ExtractOptions, source: CaptionSource) -> dict[str, Any]:
    """What a plan keeps of an extraction's options, with the source's fingerprint."""
    return {**options.model_dump(mode="json", exclude=NOT_SETTINGS), "source": source.description}


def extract_entries(source: CaptionSource) -> Iterator[Entry]:
    """One entry per record: its number."""
    return (Entry(f"{number:010d}") for number in range(len(source)))


def plan_extract(
    place: Place, options: ExtractOptions, *, encoders: Encoders | None = None, progress: ProgressCallback | None = None
) -> Plan:
    """Plan to extract the features of the sources of ``options``; the encoders are loaded for their checksums.

    Raises:
        InputError, DataError: as :func:`talk2dino.scale.plan.make_plan`, or the sources cannot be opened.
    """
    source = open_sources(options.sources, images=options.images, split=options.split, limit=options.limit)
    encoders = encoders or load_encoders(options.model, device="cpu", dtype=options.dtype)
    return make_plan(
        place, job="extract", source=", ".join(map(str, options.sources)), settings=extract_settings(options, source),
        weights=weights(encoders), shard_size=options.records_per_shard, entries=extract_entries(source), progress=progress,
    )  # fmt: skip


class ExtractJob:
    """The encoders and the source of a plan of ``extract``; the source must be a path that every worker can read.

    Raises:
        InputError: other weights than the plan was made for, or a source that changed.
    """

    def __init__(
        self, plan: Plan, *, device: str = "auto", workers: int | None = None, encoders: Encoders | None = None
    ) -> None:
        settings = {name: value for name, value in plan.settings.items() if name != "source"}
        own = {"device": device, "records_per_shard": plan.shard_size, **({"workers": workers} if workers else {})}
        self.plan = plan
        self.options = build_options(ExtractOptions, {**settings, **own, "out": Path("out")})
        options = self.options
        self.source = open_sources(options.sources, images=options.images, split=options.split, limit=options.limit)
        if found := differences(plan.settings["source"], self.source.description, sides=("when planned", "now")):
            raise InputError(
                f"the source changed since it was planned ({'; '.join(found[:4])}): plan it again in another place"
            )
        self.encoders = encoders or load_encoders(options.model, device=device, dtype=options.dtype)
        if found := differences(plan.weights, weights(self.encoders), sides=("when planned", "here")):
            raise InputError(
                f"the model {options.model} has other weights than the plan was made for ({'; '.join(found)}): give every "
                "worker the same model"
            )

    def run(
        self, shards: Iterable[tuple[Shard, bool]], finish: Callable[[Shard, dict[str, bytes], int, Counter[str], float], None],
        on_image: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """Make shards; ``finish`` gets the files of each, its number of records, the reasons of skipped ones, and seconds."""
        for shard, _ in shards:
            started = time.perf_counter()
            seen = 0

            def count(done: int, total: int, note: str = "") -> None:
                nonlocal seen
                for _ in range(done - seen if on_image is not None else 0):
                    on_image()  # type: ignore[misc]
                seen = max(seen, done)

            with tempfile.TemporaryDirectory() as folder:
                part = self.options.model_copy(
                    update={"out": Path(folder), "shard": (shard.number + 1, len(self.plan.shards))}
                )
                extract(part, source=self.source, encoders=self.encoders, progress=count)
                files = _read_part(part.folder, shard)
                reasons = Counter(
                    str(record.get("reason")) for record in read_journal(part.folder / SKIPPED, damaged="skip")
                )
            finish(shard, files, len(shard.entries), reasons, time.perf_counter() - started)


def weights(encoders: Encoders) -> dict[str, str]:
    """What identifies the encoders."""
    return {name: str(value) for name, value in encoders.identity.items()}


def merge_extracted(place: Place, out: Path) -> Manifest:
    """Join the finished shards into one store; it equals that of a single process.

    Raises:
        InputError: shards are missing, or the plan is not one of extract. OutputError: ``out`` cannot be written.
    """
    plan = read_plan(place)
    if plan.job != "extract":
        raise InputError(f"{place.uri} is a plan of {plan.job}; --store needs one of extract")
    standing = read_standing(place, plan)
    if missing := len(plan.shards) - len(standing.receipts):
        raise InputError(
            f"{missing} of {len(plan.shards)} shards are not finished: run 'talk2dino scale work {place.uri}' first"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-parts-") as folder:
        parts = []
        for number in plan.numbers():
            parts.append(Path(folder) / f"{number:06d}")
            parts[-1].mkdir()
            for name in standing.receipts[number].files:
                _, _, ending = name.partition(".")
                target = f"shard-{number:05d}.{ending}" if ending in ("safetensors", "jsonl") else ending
                (parts[-1] / target).write_bytes(place.read(f"{RESULTS}/{name}"))
        return merge_stores(parts, out)


def _read_part(folder: Path, shard: Shard) -> dict[str, bytes]:
    """The files of a part under their names in the place."""
    names = {f"shard-{shard.number:05d}.safetensors": "safetensors", f"shard-{shard.number:05d}.jsonl": "jsonl"}
    names |= {NAME: NAME, SKIPPED: SKIPPED}
    return {
        f"{shard.name}.{end}": (folder / name).read_bytes() for name, end in names.items() if (folder / name).exists()
    }
