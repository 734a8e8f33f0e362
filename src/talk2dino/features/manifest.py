"""What a feature store records about itself: ``manifest.json``, checksums, and whether two stores belong together."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from talk2dino.errors import DataError
from talk2dino.io.atomic import write_atomically
from talk2dino.io.settings import differences, read_json

FORMAT = "talk2dino-features-1"
NAME = "manifest.json"
_AGAIN = "restore it from a copy, or remove the folder and extract again"
#: Fields that must agree between stores that are used together. The stored features may differ.
IDENTITY = ("model", "preprocessing", "num_heads", "vision_dim", "text_dim")


@dataclass(frozen=True)
class Shard:
    """One complete shard: its number in the source, counts, and the size and SHA-256 of its tensor file."""

    number: int
    file: str
    images: int
    captions: int
    skipped: int
    bytes: int
    sha256: str


@dataclass
class Manifest:
    """The contents of ``manifest.json``.

    Shard k holds the records k * S ... (k + 1) * S - 1 of the source, except the skipped ones.
    """

    model: dict[str, Any]  # the frozen encoders: name, dtype and checksums of the weights
    preprocessing: dict[str, Any]  # how images were resized and cropped
    features: list[str]  # stored image features, see :func:`talk2dino.stages.pooling.pooled_features`
    num_heads: int  # M; 0 in a converted store without head embeddings
    vision_dim: int
    text_dim: int
    source: dict[str, Any] = field(default_factory=dict)  # what was read, and how many records it has
    records_per_shard: int = 0  # S
    part: tuple[int, int] = (0, 1)  # (i, n): holds the shards whose number is i modulo n (``--shard i+1/n``)
    complete: bool = False  # whether the extraction is finished
    shards: list[Shard] = field(default_factory=list)

    @property
    def images(self) -> int:
        return sum(shard.images for shard in self.shards)

    @property
    def captions(self) -> int:
        return sum(shard.captions for shard in self.shards)

    @property
    def skipped(self) -> int:
        return sum(shard.skipped for shard in self.shards)

    @property
    def counts(self) -> str:
        """Images and captions, for people."""
        return f"{self.images:,} images, {self.captions:,} captions"

    def write(self, folder: Path) -> None:
        content = {"format": FORMAT, "images": self.images, "captions": self.captions, **asdict(self)}
        write_atomically(folder / NAME, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a store; raises DataError if there is none, or it is damaged or of another format."""
        path = folder / NAME
        if not path.is_file():
            advice = "create one with 'talk2dino extract'"
            if parts := part_folders(folder):
                advice = (
                    f"it holds {len(parts)} part{'s' * (len(parts) != 1)} of a store: name the parts ({parts[0]} ...), or "
                    f"merge them with 'talk2dino store merge {folder} --out FOLDER'"
                )
            raise DataError(f"{folder} is not a feature store: it has no {NAME}; {advice}")
        try:
            content = read_json(path, "manifest")
        except DataError as error:
            raise DataError(f"{error}; {_AGAIN}") from None
        if content.get("format") != FORMAT:
            raise DataError(f"{path} is not of the format {FORMAT}; {_AGAIN}")
        content = {key: value for key, value in content.items() if key not in ("format", "images", "captions")}
        try:
            shards = [Shard(**shard) for shard in content.pop("shards")]
            for shard in shards:
                numbers = (shard.number, shard.images, shard.captions, shard.skipped, shard.bytes)
                if not all(isinstance(value, int) for value in numbers) or Path(str(shard.file)).name != shard.file:
                    raise TypeError(f"shard {shard}")
            listed = Counter(name for shard in shards for name in (str(shard.number), shard.file))
            if twice := [name for name, count in listed.items() if count > 1]:
                raise TypeError(f"shard {twice[0]} is listed twice")
            return cls(**{**content, "part": tuple(content["part"]), "shards": shards})
        except (TypeError, KeyError) as error:
            raise DataError(f"{path} is damaged ({error}); {_AGAIN}") from None

    def differences(
        self, other: Manifest, *, same_source: bool = False, sides: tuple[str, str] = ("in the first", "in the second")
    ) -> list[str]:
        """What keeps two stores from being used together; with ``same_source``, two runs from making one store.

        What one of them does not record may differ: old stores lack weights, converted ones may lack head embeddings.
        """
        names = (*IDENTITY, "features", "source", "records_per_shard") if same_source else IDENTITY
        one, two = ({name: getattr(manifest, name) for name in names} for manifest in (self, other))
        ignore = [] if self.num_heads and other.num_heads else ["num_heads"]
        ignore += [] if self.model.get("weights") and other.model.get("weights") else ["model.weights"]
        return [
            f"{line} (its captions or images have changed)" if line.startswith("source.content: ") else line
            for line in differences(one, two, ignore=ignore, sides=sides)
        ]


def part_folders(folder: Path) -> list[Path]:
    """The stores that ``extract --shard I/N`` made in a folder."""
    return sorted(folder.glob("part-*-of-*"))


def checksum(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def check_shard(folder: Path, shard: Shard, *, contents: bool) -> str | None:
    """What is wrong with the tensors of a shard, or None. Compares sizes, and checksums with ``contents``."""
    path = folder / shard.file
    if not path.is_file():
        return f"{path} is missing"
    if (size := path.stat().st_size) != shard.bytes:
        return f"{path} has {size} bytes, expected {shard.bytes}"
    if contents and checksum(path) != shard.sha256:
        return f"{path} is corrupted: its checksum differs from the manifest's"
    return None


def check_files(folder: Path, shard: Shard) -> str | None:
    """What is wrong with a shard, or None: its tensors, and the list of images and captions that people read."""
    path = (folder / shard.file).with_suffix(".jsonl")
    if wrong := check_shard(folder, shard, contents=True):
        return wrong
    if not path.is_file():
        return f"{path} is missing"
    count = path.read_bytes().count(b"\n")
    return None if count == shard.images else f"{path} has {count} lines, expected {shard.images}"


def damaged_shards(folder: Path, manifest: Manifest) -> list[str]:
    """What is wrong with the shards of a store, one entry per damaged shard."""
    return [wrong for shard in manifest.shards if (wrong := check_files(folder, shard))]
