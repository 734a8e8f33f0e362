"""Pictures and captions to features: decode, forward and write at the same time, a shard at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from talk2dino.captions.source import CaptionSource, Record, Skipped
from talk2dino.errors import DataError, InputError, Talk2DinoError
from talk2dino.features.encoders import Encoders
from talk2dino.features.manifest import Manifest, short
from talk2dino.features.writer import ShardContents, StoreWriter
from talk2dino.io.images import read_image
from talk2dino.io.lock import folder_lock
from talk2dino.models.preprocess import normalise
from talk2dino.stages.heads import pooled_features

FEATURES = ("heads", "average", "cls", "patch_mean")
#: Records that must have been seen before their skipped share can stop a run.
ENOUGH_TO_JUDGE = 100


@dataclass(frozen=True)
class ExtractOptions:
    """How to extract. Defaults: the published preprocessing, head embeddings alone.

    Attributes:
        features: any of heads, average, cls, patch_mean.
        crop: "center": short side to ``size`` (bicubic), centre crop (published); "squash": both sides to ``size``.
        part: (i, n): only the shards whose number is i modulo n.
        max_skipped: share of the records that may be skipped before the run stops.
        workers: threads that decode.
    """

    features: tuple[str, ...] = ("heads",)
    size: int = 448
    crop: str = "center"
    batch_size: int = 16
    records_per_shard: int = 2048
    part: tuple[int, int] = (0, 1)
    max_skipped: float = 0.05
    workers: int = 2

    def __post_init__(self) -> None:
        unknown = [name for name in self.features if name not in FEATURES]
        if unknown or not self.features:
            raise InputError(f"unknown features {', '.join(unknown)}; any of: {', '.join(FEATURES)}")
        if self.crop not in ("center", "squash"):
            raise InputError(f"crop is 'center' or 'squash'; got '{self.crop}'")
        if not 0 <= self.part[0] < self.part[1]:
            raise InputError(f"part i/n counts from 0/n to n-1/n; got {self.part[0]}/{self.part[1]}")
        if min(self.batch_size, self.records_per_shard, self.workers) < 1 or not 0 <= self.max_skipped <= 1:
            raise InputError("batch size, records a shard and workers are at least 1, the skipped share lies in 0..1")


def extract(
    source: CaptionSource,
    encoders: Encoders,
    out: str | Path,
    options: ExtractOptions = ExtractOptions(),
    *,
    watch: Callable[[dict[str, Any]], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Manifest:
    """Make (or go on making) a feature store.

    Memory holds one shard, a few batches of pictures, and the source's index, however many pictures there are.

    Args:
        watch: called after each batch with done, before (done by earlier runs), total, skipped, rate (records a second)
            and remaining (seconds).
        tell: called with a sentence for what should be known: notes of the source, damaged shards that are made again.

    Raises:
        InputError: a size that the vision model cannot take.
        DataError: no records, too many that cannot be used, or the folder holds a store made in another way.
        OutputError: the folder cannot be written, or another run is writing there.
    """
    patch = getattr(encoders.vision, "patch_size", 1)
    if options.size < patch or options.size % patch:
        near = max(1, round(options.size / patch)) * patch
        raise InputError(
            f"the size must be a multiple of the patch size {patch}; got {options.size}, near it is {near}"
        )
    if not len(source):
        raise DataError(f"the source holds not one record: {short(source.description)}")
    manifest = Manifest(
        encoders.identity,
        {"size": options.size, "crop": options.crop, "resample": "bicubic"},
        sorted(set(options.features)),
        encoders.num_heads,
        encoders.vision_dim,
        encoders.text_dim,
        source.description,
        options.records_per_shard,
        options.part,
    )
    with folder_lock(Path(out)):
        writer = StoreWriter(Path(out), manifest)
        if tell is not None:
            for note in (*source.notes, *writer.redone_notes()):
                tell(note)
        run = _Extraction(source, encoders, options, writer, watch)
        with ThreadPoolExecutor(options.workers, "decode") as decoders, ThreadPoolExecutor(1, "write") as write:
            try:
                for contents in run.shards(decoders):
                    run.hand_over(contents, write)
                run.hand_over(None, write)
            except BaseException:
                decoders.shutdown(wait=False, cancel_futures=True)
                raise
        run.judge_skipped(final=True)
        if options.part == (0, 1) and not manifest.images:
            raise DataError(f"not one of {len(source)} records can be used; {writer.folder}/skipped.jsonl says why")
        return writer.finish()


class _Picture(NamedTuple):
    """A picture ready for the vision model: pixels (3, H, W) uint8."""

    record: Record
    pixels: Tensor


class _Extraction:
    def __init__(
        self,
        source: CaptionSource,
        encoders: Encoders,
        options: ExtractOptions,
        writer: StoreWriter,
        watch: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self.source, self.encoders, self.options, self.writer, self.watch = source, encoders, options, writer, watch
        part, parts = options.part
        per_shard = options.records_per_shard
        shards = range(part, (len(source) + per_shard - 1) // per_shard, parts)
        self.todo = [number for number in shards if number not in writer.done]
        sizes = {number: min(per_shard, len(source) - number * per_shard) for number in shards}
        self.total = sum(sizes.values())
        self.seen = self.before = self.total - sum(sizes[number] for number in self.todo)
        self.skipped = writer.manifest.skipped
        self.started = time.perf_counter()
        self._written: Future | None = None
        self._last: tuple[ShardContents, Skipped] | None = None

    def shards(self, decoders: ThreadPoolExecutor) -> Iterator[ShardContents]:
        """The shards that are not there yet, one after the other."""
        wanted = set(self.todo)
        per_shard = self.options.records_per_shard
        numbered = self.source.records(lambda number: number // per_shard in wanted)
        contents: ShardContents | None = None
        batch: list[_Picture] = []
        for number, found in self._decoded(numbered, decoders):
            if contents is None or number // per_shard != contents.number:
                if contents is not None:
                    self._encode(batch, contents)
                    yield contents
                contents, batch = ShardContents(number // per_shard), []
            self.seen += 1
            if isinstance(found, Skipped):
                self._skip(contents, number, found)
            else:
                batch.append(found)
            if len(batch) == self.options.batch_size:
                self._encode(batch, contents)
                batch = []
        if contents is not None:
            self._encode(batch, contents)
            yield contents

    def _decoded(
        self, numbered: Iterable[tuple[int, Record | Skipped]], decoders: ThreadPoolExecutor
    ) -> Iterator[tuple[int, _Picture | Skipped]]:
        """Decode ahead by two batches, in order."""
        ahead: deque[tuple[int, Future]] = deque()
        for number, record in numbered:
            ahead.append((number, decoders.submit(_decode, record, self.options)))
            if len(ahead) >= 2 * self.options.batch_size + self.options.workers:
                first, future = ahead.popleft()
                yield first, future.result()
        for first, future in ahead:
            yield first, future.result()

    @torch.inference_mode()
    def _encode(self, batch: list[_Picture], contents: ShardContents) -> None:
        """Run the models on a batch and put its features into the shard."""
        if batch:
            out = self.encoders.vision(normalise(torch.stack([picture.pixels for picture in batch])))
            pooled = pooled_features(out.patches.float(), out.attention.float(), out.cls.float())
            features = {name: pooled[name].half().cpu() for name in sorted(set(self.options.features))}
            texts = [text for picture in batch for text in picture.record.captions]
            embeddings = self._embed(texts)
            self._check_finite(batch, features, embeddings)
            records = [picture.record for picture in batch]
            contents.add(features, [r.key for r in records], [r.captions for r in records], embeddings)
        self.judge_skipped()
        if self.watch is not None:
            rate = (self.seen - self.before) / (time.perf_counter() - self.started)
            self.watch(
                {
                    "done": self.seen,
                    "before": self.before,
                    "total": self.total,
                    "skipped": self.skipped,
                    "rate": rate,
                    "remaining": (self.total - self.seen) / rate if rate else None,
                }
            )

    def _embed(self, texts: list[str]) -> Tensor:
        """(L, C) float16; texts of like length go through the model together, so little is padding."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        embeddings = torch.empty(len(texts), self.encoders.text_dim, dtype=torch.float16)
        for start in range(0, len(order), 32):
            places = order[start : start + 32]
            embeddings[places] = self.encoders.embed([texts[i] for i in places]).half().cpu()
        return embeddings

    @staticmethod
    def _check_finite(batch: list[_Picture], features: dict[str, Tensor], embeddings: Tensor) -> None:
        for name, value in (*features.items(), ("captions", embeddings)):
            if not bool(torch.isfinite(value).all()):
                raise DataError(
                    f"the model gives values that float16 cannot hold ('{name}', pictures {batch[0].record.key} to "
                    f"{batch[-1].record.key}); extract with --dtype float32, or check the weights"
                )

    def _skip(self, contents: ShardContents, number: int, skipped: Skipped) -> None:
        contents.skipped.append((number, skipped))
        self.skipped += 1
        self._last = (contents, skipped)

    def judge_skipped(self, *, final: bool = False) -> None:
        """Stop when more than the allowed share cannot be used."""
        limit = self.options.max_skipped
        if not self.skipped or self.skipped <= limit * self.seen or (self.seen < ENOUGH_TO_JUDGE and not final):
            return
        example = ""
        if self._last is not None:
            contents, skipped = self._last
            example = f" (for example {skipped.key}: {skipped.reason})"
            if contents.number not in self.writer.done:
                self.writer.note_skipped(contents.skipped)
        raise DataError(
            f"{self.skipped} of the first {self.seen} records cannot be used, more than {100 * limit:g} %{example}; "
            f"see {self.writer.folder}/skipped.jsonl, and allow more with --max-skipped if that is as expected"
        )

    def hand_over(self, contents: ShardContents | None, thread: ThreadPoolExecutor) -> None:
        """Let a shard be written while the next one is made; wait for the one before, whose failure ends the run."""
        if self._written is not None:
            self._written.result()
        self._written = None if contents is None else thread.submit(self.writer.write, contents)


def _decode(record: Record | Skipped, options: ExtractOptions) -> _Picture | Skipped:
    if isinstance(record, Skipped):
        return record
    try:
        picture = read_image(record.read())
        return _Picture(record, preprocess(picture.array, options.size, options.crop))
    except FileNotFoundError:
        return Skipped(record.key, "no such picture")
    except Exception as error:  # decoders raise anything at all; one picture must not end a long run
        return Skipped(record.key, str(error) if isinstance(error, Talk2DinoError) else f"cannot be read: {error!r}")


def preprocess(image: np.ndarray, size: int, crop: str = "center") -> Tensor:
    """(H, W, 3) uint8 RGB to (3, size, size) uint8.

    "center": short side to ``size``, bicubic with antialiasing, ratio kept, then the middle; as torchvision's Resize
    and CenterCrop, which the published code uses.
    """
    from PIL import Image

    height, width = image.shape[:2]
    if crop == "squash":
        target = (size, size)
    else:
        if max(height, width) > 32 * min(height, width):
            raise InputError(f"a picture of {height} x {width} is too elongated to crop its middle")
        short = min(height, width)
        target = (int(size * height / short), int(size * width / short))
    resized = Image.fromarray(image)
    if target != (height, width):
        resized = resized.resize((target[1], target[0]), Image.Resampling.BICUBIC)
    top, left = round((target[0] - size) / 2), round((target[1] - size) / 2)
    pixels = np.asarray(resized)[top : top + size, left : left + size]
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
