"""Writing a feature store: a shard appears only when it is complete, and what is complete is never made again."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from talk2dino.captions.source import Skipped
from talk2dino.errors import DataError, OutputError
from talk2dino.features.manifest import (
    NAME,
    Manifest,
    Shard,
    check_lines,
    check_shard,
    checksum,
    differences,
    differences_of_making,
)
from talk2dino.io.atomic import atomic_path, remove_leftovers, write_atomically, writing_failed
from talk2dino.io.lock import folder_lock

SKIPPED = "skipped.jsonl"


@dataclass
class ShardContents:
    """What a shard will hold; grows batch by batch, float16.

    Attributes:
        images: feature -> tensors (n, ...), one a batch.
        captions: (l, C) tensors, one a batch.
        caption_image: the picture of each caption, counted inside the shard.
        lines: what is known of each picture: key and captions as text.
        skipped: (number, why) of the records that could not be used.
    """

    number: int
    images: dict[str, list[Tensor]] = field(default_factory=dict)
    captions: list[Tensor] = field(default_factory=list)
    caption_image: list[int] = field(default_factory=list)
    lines: list[dict] = field(default_factory=list)
    skipped: list[tuple[int, Skipped]] = field(default_factory=list)

    def add(
        self,
        features: dict[str, Tensor],
        keys: Sequence[str],
        captions: Sequence[Sequence[str]],
        embeddings: Tensor,
    ) -> None:
        """Add a batch: features (n, ...) and embeddings (sum of the captions, C), in the order of ``keys``."""
        for name, value in features.items():
            self.images.setdefault(name, []).append(value)
        self.captions.append(embeddings)
        for key, texts in zip(keys, captions, strict=True):
            self.caption_image += [len(self.lines)] * len(texts)
            self.lines.append({"key": key, "captions": list(texts)})


class StoreWriter:
    """A feature store that is being made, or made further.

    Shards that an earlier run completed are kept, after a look at their checksums; damaged ones are made again.

    Raises:
        DataError: the folder holds a store of another model, preprocessing, source or part (which).
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.redone: list[str] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from error
        remove_leftovers(folder)
        if (folder / NAME).exists():
            self._take_up(Manifest.read(folder))
        self.done = {shard.number for shard in manifest.shards}
        self.manifest.complete = False
        self.manifest.write(folder)
        self._rewrite_skipped()

    def _take_up(self, before: Manifest) -> None:
        now = self.manifest
        different = differences_of_making(before, now) + differences("part", before.part, now.part)
        if different:
            raise DataError(
                f"{self.folder} holds a store made in another way ({'; '.join(different)}): give another "
                "folder with --out, or remove it"
            )
        told = Counter(number // max(1, now.records_per_shard) for number, _ in _skipped_lines(self.folder))
        for shard in before.shards:
            wrong = check_shard(self.folder, shard, contents=True) or check_lines(self.folder, shard)
            if wrong is None and told[shard.number] < shard.skipped:
                wrong = f"{self.folder / SKIPPED} has lost lines of shard {shard.number}"
            if wrong:
                self.redone.append(wrong)
            else:
                now.shards.append(shard)

    def redone_notes(self) -> list[str]:
        """A sentence on the shards of an earlier run that are made again, if there are any."""
        if not self.redone:
            return []
        more = f" and {len(self.redone) - 5} more" if len(self.redone) > 5 else ""
        return [f"making {len(self.redone)} damaged shards again: {'; '.join(self.redone[:5])}{more}"]

    def _rewrite_skipped(self, *, finished: bool = False) -> None:
        """Keep the lines of complete shards alone, each once, in the order of the source when the store is finished."""
        per_shard = max(1, self.manifest.records_per_shard)
        kept = {number: line for number, line in _skipped_lines(self.folder) if number // per_shard in self.done}
        text = "".join(kept[number] + "\n" for number in sorted(kept))
        if finished or (self.folder / SKIPPED).exists():
            write_atomically(self.folder / SKIPPED, text)

    def note_skipped(self, skipped: Sequence[tuple[int, Skipped]]) -> None:
        """Append to skipped.jsonl."""
        lines = [
            json.dumps({"record": number, "key": entry.key, "reason": entry.reason}, ensure_ascii=False)
            for number, entry in skipped
        ]
        try:
            with open(self.folder / SKIPPED, "ab") as file:
                file.write("".join(line + "\n" for line in lines).encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise OutputError(f"cannot write {self.folder / SKIPPED}: {error.strerror}") from error

    def write(self, contents: ShardContents) -> Shard:
        """Write one shard and enter it into the manifest."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        name = f"shard-{contents.number:05d}.safetensors"
        tensors = {key: torch.cat(values) for key, values in contents.images.items()}
        if contents.captions:
            tensors["captions"] = torch.cat(contents.captions)
        tensors["caption_image"] = torch.tensor(contents.caption_image, dtype=torch.int32)
        with atomic_path(self.folder / name) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode  # as the umask has it; safetensors makes files that nobody else may read
            try:
                save_file(tensors, temporary)
            except (SafetensorError, RuntimeError) as error:
                raise writing_failed(self.folder / name, error) from error
            temporary.chmod(mode)
            _sync(temporary)
            size, digest = temporary.stat().st_size, checksum(temporary)
        lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in contents.lines)
        write_atomically(self.folder / f"shard-{contents.number:05d}.jsonl", lines.encode("utf-8", "backslashreplace"))
        self.note_skipped(contents.skipped)
        shard = Shard(
            contents.number,
            name,
            len(contents.lines),
            len(contents.caption_image),
            len(contents.skipped),
            size,
            digest,
        )
        self.manifest.shards = sorted([*self.manifest.shards, shard], key=lambda shard: shard.number)
        self.done.add(contents.number)
        self.manifest.write(self.folder)
        return shard

    def finish(self) -> Manifest:
        self.manifest.complete = True
        self._rewrite_skipped(finished=True)
        self.manifest.write(self.folder)
        return self.manifest


def merge_stores(parts: Sequence[Path], out: Path) -> Manifest:
    """Make one store of the parts 0/n ... n-1/n of an extraction, without copying where the file system has hard links.

    Raises:
        DataError: parts that do not belong together, are not finished, are missing, or hold damaged shards.
    """
    import shutil

    if not parts:
        raise DataError("no parts to merge")
    manifests = [Manifest.read(part) for part in parts]
    first = manifests[0]
    for part, manifest in zip(parts, manifests, strict=True):
        if different := differences_of_making(first, manifest):
            raise DataError(f"{parts[0]} and {part} are not of one extraction: {'; '.join(different)}")
        if not manifest.complete:
            raise DataError(f"{part} is not finished; run its 'talk2dino extract' again")
    count = first.part[1]
    missing = sorted(set(range(count)) - {manifest.part[0] for manifest in manifests})
    if missing or len(manifests) != count or any(manifest.part[1] != count for manifest in manifests):
        raise DataError(
            f"{count} parts make the whole; missing: {', '.join(f'{i}/{count}' for i in missing) or 'none'}"
        )
    shards = [(part, shard) for part, manifest in zip(parts, manifests, strict=True) for shard in manifest.shards]
    checks = ((check_shard(part, shard, contents=True) or check_lines(part, shard)) for part, shard in shards)
    if wrong := [line for line in checks if line]:
        raise DataError(f"damaged shards: {'; '.join(wrong[:5])}; running their 'talk2dino extract' again mends them")
    merged = Manifest(
        first.model, first.preprocessing, first.features, first.num_heads, first.vision_dim, first.text_dim,
        first.source, first.records_per_shard,
    )  # fmt: skip
    with folder_lock(out):
        writer = StoreWriter(out, merged)
        for part, shard in sorted(shards, key=lambda pair: pair[1].number):
            for name in (shard.file, shard.file.replace(".safetensors", ".jsonl")):
                with atomic_path(out / name) as temporary:
                    try:
                        os.link(part / name, temporary)
                    except OSError:
                        shutil.copyfile(part / name, temporary)
        merged.shards = sorted((shard for _, shard in shards), key=lambda shard: shard.number)
        writer.done = {shard.number for shard in merged.shards}
        skipped = "".join(line + "\n" for part in parts for line in _lines(part / SKIPPED))
        write_atomically(out / SKIPPED, skipped)
        return writer.finish()


def _skipped_lines(folder: Path) -> Iterator[tuple[int, str]]:
    """(record, line) of skipped.jsonl; lines that are damaged are left out."""
    for line in _lines(folder / SKIPPED):
        try:
            yield int(json.loads(line)["record"]), line
        except (ValueError, TypeError, KeyError):
            continue


def _lines(path: Path) -> Iterator[str]:
    """The whole lines of a file; a last line that a killed run left half-written is not one."""
    if path.exists():
        text = path.read_bytes().decode("utf-8", "replace")
        yield from text.split("\n")[:-1]


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
