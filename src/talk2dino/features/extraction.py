"""Images and captions to features: decode, encode and write at the same time, one shard after the other."""

from __future__ import annotations

import itertools
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from talk2dino.captions import CaptionSource, Record, Skipped, open_sources
from talk2dino.errors import DataError, InputError, Talk2DinoError, Talk2DinoWarning
from talk2dino.features.encoders import Encoders, load_encoders
from talk2dino.features.manifest import Manifest
from talk2dino.features.options import ExtractOptions
from talk2dino.features.writer import ShardContents, StoreWriter
from talk2dino.io.images import read_image
from talk2dino.io.lock import folder_lock
from talk2dino.models.preprocess import normalise
from talk2dino.progress import ProgressCallback
from talk2dino.stages.pooling import pooled_features

_Image = tuple[Record, Tensor]  # pixels (3, size, size) uint8
#: Records that must have been seen before their skipped share can stop a run.
ENOUGH_TO_JUDGE = 100


def extract(
    options: ExtractOptions,
    *,
    source: CaptionSource | None = None,
    encoders: Encoders | None = None,
    progress: ProgressCallback | None = None,
) -> Manifest:
    """Create a feature store in ``options.folder``, or resume one that was interrupted.

    Memory holds up to two shards, a few batches of images and the index of the source, however many images there are.
    What should be known about the source, and damaged shards that are made again, are reported as warnings.

    Args:
        source: image-caption records to use instead of ``options.sources``.
        encoders: models to use instead of loading ``options.model``.
        progress: called once at the start and after each batch, with the number of records.

    Raises:
        InputError: no source, or a size that the vision model cannot take.
        DataError: no usable record, too many unusable ones, or the folder holds a store made with other settings.
        OutputError: the folder cannot be written, or another run is writing to it.
    """
    for place in (*options.sources, *([options.images] if options.images else [])):
        if options.out.resolve() == (place if place.is_dir() else place.parent).resolve():
            raise DataError(f"{options.out} is the folder of the source: choose another output folder")
    if source is None:
        if not options.sources:
            raise InputError("name at least one source of images and captions")
        source = open_sources(options.sources, images=options.images, split=options.split, limit=options.limit)
    if not len(source):
        raise DataError(f"the source holds no records: {str(source.description)[:300]}")
    encoders = encoders or load_encoders(options.model, device=options.device, dtype=options.dtype)
    size = options.size or encoders.size
    if size < encoders.patch_size or size % encoders.patch_size:
        near = max(1, round(size / encoders.patch_size)) * encoders.patch_size
        raise InputError(f"the size must be a multiple of the patch size {encoders.patch_size}; got {size}, try {near}")
    manifest = Manifest(
        encoders.identity,
        {"size": size, "crop": options.crop, "resample": "bicubic"},
        list(options.features),
        encoders.num_heads,
        encoders.vision_dim,
        encoders.text_dim,
        source.description,
        options.records_per_shard,
        (options.shard[0] - 1, options.shard[1]),
    )
    with folder_lock(options.folder):
        writer = StoreWriter(options.folder, manifest)
        for note in [*source.notes, *writer.notes]:
            warnings.warn(note, Talk2DinoWarning, stacklevel=2)
        run = _Extraction(source, encoders, options, writer, progress)
        with ThreadPoolExecutor(options.workers, "decode") as decoders, ThreadPoolExecutor(1, "write") as write:
            try:
                written: Future | None = None
                for contents in run.shards(decoders):  # one shard is written while the next one is made
                    if written is not None:
                        written.result()
                    written = write.submit(writer.write, contents)
                if written is not None:
                    written.result()
            except BaseException:
                decoders.shutdown(wait=False, cancel_futures=True)
                raise
        run.judge_skipped(final=True)
        if options.shard[1] == 1 and not manifest.images:
            raise DataError(f"none of the {len(source)} records can be used; see {writer.skipped.path}")
        return writer.finish()


class _Extraction:
    """One run of :func:`extract`: the shards that are still to be made, and how far it got."""

    def __init__(
        self, source: CaptionSource, encoders: Encoders, options: ExtractOptions, writer: StoreWriter,
        progress: ProgressCallback | None,
    ) -> None:  # fmt: skip
        self.source, self.encoders, self.options = source, encoders, options
        self.writer, self.progress = writer, progress
        self.size = writer.manifest.preprocessing["size"]
        per_shard = options.records_per_shard
        shards = range(options.shard[0] - 1, (len(source) + per_shard - 1) // per_shard, options.shard[1])
        sizes = {number: min(per_shard, len(source) - number * per_shard) for number in shards}
        self.todo = set(shards) - writer.done
        self.total = sum(sizes.values())
        self.seen = self.total - sum(sizes[number] for number in self.todo)
        self.skipped = writer.manifest.skipped
        self._last: tuple[ShardContents, Skipped] | None = None
        self._report()

    def shards(self, decoders: ThreadPoolExecutor) -> Iterator[ShardContents]:
        """The contents of the shards that are still to be made, one after the other."""
        per_shard = self.options.records_per_shard
        for shard, entries in itertools.groupby(self._decoded(decoders), lambda entry: entry[0] // per_shard):
            contents, batch = ShardContents(shard), []
            for number, found in entries:
                self.seen += 1
                if isinstance(found, Skipped):
                    contents.skipped.append((number, found))
                    self.skipped += 1
                    self._last = (contents, found)
                else:
                    batch.append(found)
                if len(batch) == self.options.batch_size:
                    self._encode(batch, contents)
                    batch = []
            self._encode(batch, contents)
            yield contents

    def _decoded(self, decoders: ThreadPoolExecutor) -> Iterator[tuple[int, _Image | Skipped]]:
        """The records of the shards to be made, in order, decoded two batches ahead."""
        ahead: deque[tuple[int, Future]] = deque()
        per_shard = self.options.records_per_shard
        for number, record in self.source.records(lambda number: number // per_shard in self.todo):
            ahead.append((number, decoders.submit(_decode, record, self.size, self.options.crop)))
            if len(ahead) >= 2 * self.options.batch_size + self.options.workers:
                first, future = ahead.popleft()
                yield first, future.result()
        for first, future in ahead:
            yield first, future.result()

    @torch.inference_mode()
    def _encode(self, batch: list[_Image], contents: ShardContents) -> None:
        """Run the models on a batch and put its features into the shard."""
        if batch:
            records, pixels = zip(*batch, strict=True)
            out = self.encoders.vision(normalise(torch.stack(pixels)))
            pooled = pooled_features(out.patches.float(), out.attention.float(), out.cls.float())
            features = {name: pooled[name].half().cpu() for name in self.options.features}
            embeddings = self._embed([text for record in records for text in record.captions])
            for name, value in (*features.items(), ("captions", embeddings)):
                if not bool(torch.isfinite(value).all()):
                    raise DataError(
                        f"the model returned values that float16 cannot hold ('{name}', images {records[0].key} to "
                        f"{records[-1].key}): extract with --dtype float32, or check the weights"
                    )
            contents.add(features, [r.key for r in records], [r.captions for r in records], embeddings)
        self.judge_skipped()
        self._report()

    def _report(self) -> None:
        if self.progress is not None:
            self.progress(self.seen, self.total, f"{self.skipped} skipped" if self.skipped else "")

    def _embed(self, texts: list[str]) -> Tensor:
        """(L, C) float16. Texts of similar length form a batch, so that little of it is padding."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        embeddings = torch.empty(len(texts), self.encoders.text_dim, dtype=torch.float16)
        for start in range(0, len(order), 32):
            places = order[start : start + 32]
            embeddings[places] = self.encoders.embed([texts[i] for i in places]).half().cpu()
        return embeddings

    def judge_skipped(self, *, final: bool = False) -> None:
        """Stop the run if more records than ``max_skipped`` cannot be used."""
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
            f"see {self.writer.skipped.path}. To accept them, raise --max-skipped"
        )


def _decode(record: Record | Skipped, size: int, crop: str) -> _Image | Skipped:
    if isinstance(record, Skipped):
        return record
    try:
        return record, preprocess(read_image(record.read()).array, size, crop)
    except FileNotFoundError:
        return Skipped(record.key, "no such image")
    except Exception as error:  # decoders raise errors of any kind; one image must not end a long run
        return Skipped(record.key, str(error) if isinstance(error, Talk2DinoError) else f"cannot be read: {error!r}")


def preprocess(image: np.ndarray, size: int, crop: str = "center") -> Tensor:
    """Resize (H, W, 3) uint8 RGB to (3, size, size) uint8: bicubic, antialiased.

    "center" resizes the short side, keeps the aspect ratio and crops the centre, as torchvision's Resize and CenterCrop do
    in the published code; "squash" resizes both sides.

    Raises:
        InputError: the aspect ratio is above 32, with "center".
    """
    from PIL import Image

    height, width = image.shape[:2]
    short, target = min(height, width), (size, size)
    if crop == "center":
        if max(height, width) > 32 * short:
            raise InputError(f"an image of {height} x {width} pixels is too elongated for a centre crop")
        target = (int(size * height / short), int(size * width / short))
    resized = Image.fromarray(image)
    if target != (height, width):
        resized = resized.resize((target[1], target[0]), Image.Resampling.BICUBIC)
    top, left = round((target[0] - size) / 2), round((target[1] - size) / 2)
    pixels = np.asarray(resized)[top : top + size, left : left + size]
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
