"""What a feature store says of itself: ``manifest.json``, checksums, and whether two stores belong together."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from talk2dino.errors import DataError
from talk2dino.io.atomic import write_atomically

FORMAT = "talk2dino-features-1"
NAME = "manifest.json"
_ANEW = "put it back from a copy, or remove the folder and extract again"
#: Fields that must agree between stores which are used as one; which features they hold need not.
IDENTITY = ("model", "preprocessing", "num_heads", "vision_dim", "text_dim")


@dataclass(frozen=True)
class Shard:
    """One complete shard: counts, size and checksum of its tensors; ``number`` is its place in the source."""

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

    Attributes:
        model: which frozen encoders made the features: names, sizes, checksum of the weights.
        preprocessing: how pictures were resized and cropped.
        features: names of the stored image features, see :func:`talk2dino.stages.heads.pooled_features`.
        source: what was read, and how many records it has.
        records_per_shard: shard k holds the source's records k * S ... (k + 1) * S - 1, less the skipped ones.
        part: (i, n): this run made the shards whose number is i modulo n.
    """

    model: dict[str, Any]
    preprocessing: dict[str, Any]
    features: list[str]
    num_heads: int
    vision_dim: int
    text_dim: int
    source: dict[str, Any] = field(default_factory=dict)
    records_per_shard: int = 0
    part: tuple[int, int] = (0, 1)
    complete: bool = False
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

    def write(self, folder: Path) -> None:
        content = {"format": FORMAT, "images": self.images, "captions": self.captions, **asdict(self)}
        write_atomically(folder / NAME, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Raises DataError when there is none, or it is damaged or of another format."""
        path = folder / NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            parts = sorted(folder.glob("part-*-of-*"))
            advice = (
                f"it holds {len(parts)} parts of one: give these ({parts[0]} ...), or make them one with 'talk2dino store "
                f"merge {folder} --out FOLDER'"
                if parts
                else "make one with 'talk2dino extract'"
            )
            raise DataError(f"{folder} is not a feature store: it has no {NAME}; {advice}") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error}); {_ANEW}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise DataError(f"{path} is not of the format {FORMAT}; {_ANEW}")
        content = {key: value for key, value in content.items() if key not in ("format", "images", "captions")}
        try:
            shards = [Shard(**shard) for shard in content.pop("shards")]
            manifest = cls(**{**content, "part": tuple(content["part"]), "shards": shards})
        except (TypeError, KeyError) as error:
            raise DataError(f"{path} is damaged ({error}); {_ANEW}") from error
        for shard in shards:
            numbers = (shard.number, shard.images, shard.captions, shard.skipped, shard.bytes)
            if not all(isinstance(value, int) for value in numbers) or Path(str(shard.file)).name != shard.file:
                raise DataError(f"{path} is damaged (shard {short(shard)}); {_ANEW}")
        listed = Counter(name for shard in shards for name in (str(shard.number), shard.file))
        if twice := [name for name, count in listed.items() if count > 1]:
            raise DataError(f"{path} is damaged (shard {twice[0]} is listed twice); {_ANEW}")
        return manifest

    def differences(self, other: Manifest) -> list[str]:
        """Names and values of what keeps two stores from being used as one; empty when they belong together."""
        found: list[str] = []
        for name in IDENTITY:
            found += differences(name, getattr(self, name), getattr(other, name))
        if not (self.num_heads and other.num_heads):  # a converted store without head embeddings has 0
            found = [line for line in found if not line.startswith("num_heads")]
        if not (self.model.get("weights") and other.model.get("weights")):  # which older stores do not say
            found = [line for line in found if not line.startswith("model.weights")]
        return found


def differences(name: str, ours: Any, theirs: Any) -> list[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            line
            for key in dict.fromkeys([*ours, *theirs])
            for line in differences(f"{name}.{key}", ours.get(key), theirs.get(key))
        ]
    return [] if ours == theirs else [f"{name}: {short(ours)} and {short(theirs)}"]


def differences_of_making(before: Manifest, now: Manifest) -> list[str]:
    """What keeps two runs from making one store: all of :meth:`Manifest.differences`, the source, and how it is cut."""
    found = before.differences(now) + differences("features", sorted(before.features), sorted(now.features))
    for name in ("source", "records_per_shard"):
        found += differences(name, getattr(before, name), getattr(now, name))
    return [
        f"{line}, that is, its captions or pictures have changed since" if line.startswith("source.content: ") else line
        for line in found
    ]


def short(value: Any, longest: int = 160) -> str:
    """A value for a message; the middle of a long one is left out."""
    text = str(value)
    return text if len(text) <= longest else f"{text[: longest * 2 // 3]} ... {text[-longest // 3 :]}"


def checksum(path: Path) -> str:
    """SHA-256 of a file's contents, read in pieces."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def check_shard(folder: Path, shard: Shard, *, contents: bool) -> str | None:
    """What is wrong with a shard's file, or None. Size always; the checksum too when ``contents``."""
    path = folder / shard.file
    if not path.is_file():
        return f"{path} is missing"
    size = path.stat().st_size
    if size != shard.bytes:
        return f"{path} has {size} bytes, the manifest says {shard.bytes}"
    if contents and checksum(path) != shard.sha256:
        return f"{path} is corrupted: its checksum is not the manifest's"
    return None


def check_lines(folder: Path, shard: Shard) -> str | None:
    """What is wrong with the list of a shard's pictures and captions (nothing but people reads it), or None."""
    path = (folder / shard.file).with_suffix(".jsonl")
    if not path.is_file():
        return f"{path} is missing"
    with path.open("rb") as file:
        count = sum(1 for _ in file)
    return None if count == shard.images else f"{path} has {count} lines, the manifest says {shard.images} pictures"
