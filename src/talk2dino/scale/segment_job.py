"""Shards of ``segment``: read, decode, label and encode, with several batches at once; finished shards come out whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talk2dino.errors import DataError, InputError, Talk2DinoError
from talk2dino.folder import SLIDE_TOGETHER, FolderOptions
from talk2dino.io.images import LoadedImage, image_size
from talk2dino.io.settings import build_options, differences
from talk2dino.scale.places import Place
from talk2dino.scale.plan import Plan, Shard, make_plan
from talk2dino.scale.reading import Decoder, Encoded, SourceReader
from talk2dino.scale.rows import Row
from talk2dino.workers import choose_workers, group, run_batches

if TYPE_CHECKING:
    from talk2dino.progress import ProgressCallback
    from talk2dino.segmenter import Segmenter

#: Options of a folder run that decide what is in a row.
SETTINGS = {
    "prompts", "negative", "vocabulary", "text", "translate", "model", "projection", "method", "method_options", "background", "thresholds", "clean", "refine",
    "mode", "dtype", "engine", "batch_size", "allow_truncated", "max_pixels",
}  # fmt: skip


@dataclass
class _Open:
    """A shard that is being made; ``rows`` fills up in any order."""

    shard: Shard
    careful: bool
    started: float = field(default_factory=time.perf_counter)
    rows: dict[int, Row] = field(default_factory=dict)


@dataclass(frozen=True)
class _Item:
    open: _Open
    index: int
    found: Encoded


class SegmentJob:
    """The model and the settings of a plan of ``segment``.

    Args:
        device, workers: of this process; they do not belong to the plan.
        segmenter: one that is loaded already.

    Raises:
        InputError: the model has other weights than the plan was made for.
    """

    def __init__(
        self, plan: Plan, *, device: str = "auto", workers: int | None = None, segmenter: Segmenter | None = None
    ) -> None:
        self.plan, self.options = plan, folder_options(plan)
        self.workers = workers
        self.segmenter = segmenter or self.options.load(device)
        if found := differences(plan.weights, weights(self.segmenter), sides=("when planned", "here")):
            raise InputError(
                f"the model {self.segmenter.name} has other weights than the plan was made for ({'; '.join(found)}): "
                "give every worker the same model"
            )
        self.text, self.settings = self.options.ask(self.segmenter)
        self.reader = SourceReader(plan.source)
        self._decoders = {careful: self._decoder(careful) for careful in (False, True)}

    def _decoder(self, careful: bool) -> Decoder:
        options = self.options
        return Decoder(allow_truncated=options.allow_truncated, max_pixels=options.max_pixels, careful=careful)

    def run(
        self, shards: Iterable[tuple[Shard, bool]], finish: Callable[[Shard, list[Row], float], None],
        on_image: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """Make shards and hand each finished one to ``finish`` with its rows, in order, and the seconds it took.

        Args:
            shards: with whether images are decoded apart because an earlier attempt died.
            on_image: called after each image.
        """
        lock, stopping = threading.Lock(), threading.Event()

        def done(item: _Item, row: Row) -> None:
            with lock:
                item.open.rows[item.index] = row
                whole = len(item.open.rows) == len(item.open.shard.entries)
                if on_image is not None:
                    on_image()
            if whole:
                rows = [item.open.rows[index] for index in range(len(item.open.rows))]
                finish(item.open.shard, rows, time.perf_counter() - item.open.started)

        def do(batch: list[_Item]) -> None:
            decoded = []
            for item in batch:
                try:
                    decoded.append((item, self._decoders[item.open.careful](item.found)))
                except Talk2DinoError as error:
                    done(item, Row(item.found.entry.key, error=str(error)))
            for item, row in zip((item for item, _ in decoded), self._rows(decoded), strict=True):
                done(item, row)

        workers = choose_workers(self.segmenter, self.workers, 64)
        try:
            run_batches(self._batches(shards), do, workers=workers, stopping=stopping)
        finally:
            for decoder in self._decoders.values():
                decoder.close()

    def _batches(self, shards: Iterable[tuple[Shard, bool]]) -> Iterator[list[_Item]]:
        """Batches never hold images of two shards, so that a shard's result does not depend on the others."""
        for shard, careful in shards:
            opened = _Open(shard, careful)
            items = (_Item(opened, i, found) for i, found in enumerate(self.reader.read_all(shard.entries)))
            yield from group(items, self._seen, self.options.batch_size)

    def _seen(self, item: _Item) -> object:
        """Images with equal values can share a forward pass."""
        from talk2dino.pipeline import plan_view, view_key

        size = image_size(item.found.content) if item.found.content else None
        if size is None:
            return None
        try:
            key = view_key(plan_view(size, self.options.mode, self.segmenter.method))
        except Talk2DinoError:  # reported when the image's turn comes
            return None
        return item.index if key[0] == "slide" and size[0] * size[1] > SLIDE_TOGETHER else key

    def _rows(self, decoded: list[tuple[_Item, LoadedImage]]) -> list[Row]:
        """Label images together; if that fails, one by one."""
        images = [image for _, image in decoded]
        try:
            results = self.segmenter.segment_batch(
                images, self.text, batch_size=self.options.batch_size, **self.settings
            )
        except Talk2DinoError as error:
            if len(decoded) == 1:
                return [Row(decoded[0][0].found.entry.key, error=str(error))]
            return [row for one in decoded for row in self._rows([one])]
        return [Row.of(item.found.entry.key, result) for (item, _), result in zip(decoded, results, strict=True)]


def plan_segment(
    place: Place, source: str, options: FolderOptions, *, shard_size: int = 2048, segmenter: Segmenter | None = None,
    progress: ProgressCallback | None = None,
) -> Plan:  # fmt: skip
    """Plan to segment every image of a source; the model is loaded for its checksums.

    Args:
        options: of a folder run; those that decide its results belong to the plan.

    Raises:
        InputError, DataError: as :func:`talk2dino.scale.plan.make_plan`.
    """
    segmenter = segmenter or options.load("cpu")
    text, _ = options.ask(segmenter)
    return make_plan(
        place, job="segment", source=source, settings=segment_settings(options), weights=weights(segmenter),
        classes=text.names[: text.positive], shard_size=shard_size, progress=progress,
    )  # fmt: skip


def folder_options(plan: Plan) -> FolderOptions:
    """The options of a plan of ``segment``."""
    if plan.job != "segment":
        raise DataError(f"this is a plan of {plan.job}, not of segment")
    return build_options(FolderOptions, {**plan.settings, "images": (plan.source,), "out": Path("out")})


def segment_settings(options: FolderOptions) -> dict[str, Any]:
    """What a plan keeps of a folder run's options."""
    return options.model_dump(mode="json", include=SETTINGS)


def weights(segmenter: Segmenter) -> dict[str, str]:
    """Checksums of everything that decides the results of a segmenter."""
    return {**segmenter.towers.checksums(segmenter.method.facts.towers), **segmenter.method.fingerprints()}
