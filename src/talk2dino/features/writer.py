"""Writing a feature store: a shard appears only when it is complete, and complete shards are never made again."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from talk2dino.captions import Skipped
from talk2dino.errors import DataError
from talk2dino.features.manifest import NAME, Manifest, Shard, check_files, checksum, damaged_shards, part_folders
from talk2dino.io.atomic import atomic_path, remove_leftovers, writing_failed
from talk2dino.io.journal import Journal, Record, read_journal, write_journal
from talk2dino.io.lock import folder_lock

SKIPPED = "skipped.jsonl"


@dataclass
class ShardContents:
    """The contents of a shard while it grows batch by batch; tensors are float16."""

    number: int
    images: dict[str, list[Tensor]] = field(default_factory=dict)  # feature -> (n, ...) per batch
    captions: list[Tensor] = field(default_factory=list)  # (l, C) per batch
    caption_image: list[int] = field(default_factory=list)  # the image of each caption, counted within the shard
    lines: list[Record] = field(default_factory=list)  # key and captions of each image
    skipped: list[tuple[int, Skipped]] = field(default_factory=list)  # record number and reason

    def add(
        self, features: dict[str, Tensor], keys: Sequence[str], captions: Sequence[Sequence[str]], embeddings: Tensor
    ) -> None:
        """Add a batch: features (n, ...) and embeddings (number of captions, C), in the order of ``keys``."""
        for name, value in features.items():
            self.images.setdefault(name, []).append(value)
        self.captions.append(embeddings)
        for key, texts in zip(keys, captions, strict=True):
            self.caption_image += [len(self.lines)] * len(texts)
            self.lines.append({"key": key, "captions": list(texts)})

    def tensors(self) -> dict[str, Tensor]:
        tensors = {name: torch.cat(values) for name, values in self.images.items()}
        if self.captions:
            tensors["captions"] = torch.cat(self.captions)
        return {**tensors, "caption_image": torch.tensor(self.caption_image, dtype=torch.int32)}


class StoreWriter:
    """A feature store that is being made or resumed.

    The complete shards of an earlier run are kept if their checksums agree; damaged ones are made again.

    Attributes:
        skipped: the journal skipped.jsonl.
        damaged: what is wrong with the shards that will be made again.

    Raises:
        DataError: the folder holds a store of another model, preprocessing, source or part; the differences are named.
        OutputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.damaged: list[str] = []
        remove_leftovers(folder)
        self.skipped = Journal(folder / SKIPPED, sync=False, damaged="skip")
        if (folder / NAME).exists():
            self._resume(Manifest.read(folder))
        manifest.complete = False
        manifest.write(folder)
        self._keep_skipped_of_complete_shards()

    @property
    def notes(self) -> list[str]:
        """One sentence about the shards of an earlier run that will be made again, if there are any."""
        count, more = len(self.damaged), f" and {len(self.damaged) - 5} more" if len(self.damaged) > 5 else ""
        shown = "; ".join(self.damaged[:5]) + more
        return [f"making {count} damaged shard{'s' * (count > 1)} again: {shown}"] if count else []

    @property
    def done(self) -> set[int]:
        """Numbers of the complete shards."""
        return {shard.number for shard in self.manifest.shards}

    def _resume(self, before: Manifest) -> None:
        different = before.differences(self.manifest, same_source=True, sides=("before", "now"))
        if before.part != self.manifest.part:
            parts = (f"{part[0] + 1}/{part[1]}" for part in (before.part, self.manifest.part))
            different.append("shard: {} before, {} now".format(*parts))
        if different:
            raise DataError(
                f"{self.folder} holds a store made with other settings ({'; '.join(different)}): choose another output "
                "folder, or remove this one"
            )
        listed = Counter(map(self._shard_of, self.skipped.records))
        for shard in before.shards:
            wrong = check_files(self.folder, shard)
            if wrong is None and listed[shard.number] < shard.skipped:
                wrong = f"{self.folder / SKIPPED} has lost records of shard {shard.number}"
            if wrong:
                self.damaged.append(wrong)
            else:
                self.manifest.shards.append(shard)

    def _shard_of(self, skipped: Record) -> int:
        """Number of the shard of a line of skipped.jsonl; -1 for a damaged line."""
        number = skipped.get("record")
        return number // max(1, self.manifest.records_per_shard) if isinstance(number, int) else -1

    def _keep_skipped_of_complete_shards(self) -> None:
        """Rewrite skipped.jsonl: each record once, in the order of the source."""
        if self.skipped.path.exists():
            done = self.done
            kept = {record["record"]: record for record in self.skipped.records if self._shard_of(record) in done}
            self.skipped.records = [kept[number] for number in sorted(kept)]
            write_journal(self.skipped.path, self.skipped.records)

    def note_skipped(self, skipped: Sequence[tuple[int, Skipped]]) -> None:
        for number, entry in skipped:
            self.skipped.add({"record": number, "key": entry.key, "reason": entry.reason})

    def write(self, contents: ShardContents) -> Shard:
        """Write one shard and add it to the manifest; raises OutputError, for example because the disk is full."""
        path = self.folder / f"shard-{contents.number:05d}.safetensors"
        size, digest = _save(path, contents.tensors())
        write_journal(path.with_suffix(".jsonl"), contents.lines)
        self.note_skipped(contents.skipped)
        counts = (len(contents.lines), len(contents.caption_image), len(contents.skipped))
        shard = Shard(contents.number, path.name, *counts, size, digest)
        self.manifest.shards = sorted([*self.manifest.shards, shard], key=lambda shard: shard.number)
        self.manifest.write(self.folder)
        return shard

    def finish(self) -> Manifest:
        self.manifest.complete = True
        self._keep_skipped_of_complete_shards()
        self.manifest.write(self.folder)
        return self.manifest


def merge_stores(parts: Sequence[str | Path], out: str | Path) -> Manifest:
    """Merge the stores that ``extract --shard 1/N`` ... ``N/N`` made, or those in one folder, into one store.

    Files are hard links where the file system has them, copies elsewhere.

    Raises:
        DataError: the parts do not belong together, are unfinished, missing or damaged.
        OutputError: ``out`` cannot be written.
    """
    if not parts:
        raise DataError("there are no parts to merge: name the stores that 'talk2dino extract --shard I/N' made")
    folders, out = [Path(part) for part in parts], Path(out)
    if len(folders) == 1:
        folders = part_folders(folders[0]) or folders
    manifests = [Manifest.read(folder) for folder in folders]
    _check_parts(folders, manifests)
    pairs = list(zip(folders, manifests, strict=True))
    if damaged := [line for folder, manifest in pairs for line in damaged_shards(folder, manifest)]:
        raise DataError(f"damaged shards: {'; '.join(damaged[:5])}; run their 'talk2dino extract' again to repair them")
    with folder_lock(out):
        writer = StoreWriter(out, replace(manifests[0], part=(0, 1), complete=False, shards=[]))
        for folder, manifest in pairs:
            for shard in manifest.shards:
                for name in (shard.file, Path(shard.file).with_suffix(".jsonl").name):
                    with atomic_path(out / name) as temporary:
                        try:
                            os.link(folder / name, temporary)
                        except OSError:
                            shutil.copyfile(folder / name, temporary)
            for record in read_journal(folder / SKIPPED, damaged="skip"):
                writer.skipped.add(record)
        shards = [shard for manifest in manifests for shard in manifest.shards]
        writer.manifest.shards = sorted(shards, key=lambda shard: shard.number)
        return writer.finish()


def _check_parts(folders: Sequence[Path], manifests: Sequence[Manifest]) -> None:
    first = manifests[0]
    for folder, manifest in zip(folders, manifests, strict=True):
        if different := first.differences(manifest, same_source=True):
            raise DataError(f"{folders[0]} and {folder} are not parts of one extraction: {'; '.join(different)}")
        if not manifest.complete:
            raise DataError(f"{folder} is not finished: run its 'talk2dino extract' again")
    count = first.part[1]
    missing = sorted(set(range(count)) - {manifest.part[0] for manifest in manifests})
    if missing or len(manifests) != count or any(manifest.part[1] != count for manifest in manifests):
        names = ", ".join(f"{number + 1}/{count}" for number in missing)
        raise DataError(f"a whole store has {count} parts, got {len(manifests)}; missing: {names or 'none'}")


def _save(path: Path, tensors: dict[str, Tensor]) -> tuple[int, str]:
    """Write a safetensors file; returns its size in bytes and its SHA-256."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # follows the umask; safetensors makes files that only their owner may read
        try:
            save_file(tensors, temporary)
        except (SafetensorError, RuntimeError) as error:
            raise writing_failed(path, error) from error
        temporary.chmod(mode)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        return temporary.stat().st_size, checksum(temporary)
