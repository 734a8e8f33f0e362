"""Features of pictures and captions, memory-mapped: larger than memory, random access, several stores as one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from talk2dino.errors import DataError, InputError, ShapeError
from talk2dino.features.manifest import Manifest, Shard, check_shard

_DTYPES = {"F16": torch.float16, "F32": torch.float32, "BF16": torch.bfloat16, "I32": torch.int32, "I64": torch.int64}


class FeatureStore:
    """Image features and caption embeddings of K pictures and L captions, in one or many pieces.

    Attributes:
        caption_image: (L,) row of the picture that each caption belongs to.
        rows: the caption rows that this view trains on; all of them unless it came from :meth:`split`.
        manifests: one for each folder; empty when built from tensors.
    """

    def __init__(self, pieces: Sequence[Mapping[str, Tensor]], manifests: Sequence[Manifest] = ()) -> None:
        if not pieces:
            raise DataError("a feature store without a single shard")
        self.names = sorted(set.intersection(*map(set, pieces)) - {"caption_image"})
        features = [name for name in self.names if name != "captions"]
        if "captions" not in self.names or not features:
            raise DataError(f"a feature store holds captions and image features; got {self.names}")
        self.manifests = list(manifests)
        self._pieces = {name: [piece[name] for piece in pieces] for name in self.names}
        starts = np.cumsum([0, *(len(piece[features[0]]) for piece in pieces)])
        self.caption_image = torch.cat(
            [piece["caption_image"].long() + int(start) for piece, start in zip(pieces, starts, strict=False)]
        )
        self._starts = {
            name: torch.tensor(np.cumsum([0, *map(len, tensors)]), dtype=torch.long)
            for name, tensors in self._pieces.items()
        }
        self.rows = torch.arange(len(self.caption_image))
        self.num_images = int(starts[-1])

    @classmethod
    def from_tensors(
        cls, images: Tensor | Mapping[str, Tensor], captions: Tensor, caption_image: Tensor
    ) -> FeatureStore:
        """A store in memory.

        Args:
            images: (K, M, D) head embeddings, or several features by name (``heads``, ``average``, ``cls``,
                ``patch_mean``), each (K, ...).
            captions: (L, C) raw text embeddings.
            caption_image: (L,) the picture of each caption.
        """
        features = dict(images) if isinstance(images, Mapping) else {"heads": images}
        count = len(next(iter(features.values())))
        if any(len(value) != count for value in features.values()):
            raise ShapeError(f"features of different lengths: { {k: tuple(v.shape) for k, v in features.items()} }")
        if captions.ndim != 2 or caption_image.shape != captions.shape[:1]:
            raise ShapeError(
                f"captions must be (L, C) and caption_image (L,); got {tuple(captions.shape)} and "
                f"{tuple(caption_image.shape)}"
            )
        if len(caption_image) and not 0 <= int(caption_image.min()) <= int(caption_image.max()) < count:
            raise InputError(f"caption_image must lie in 0..{count - 1}")
        return cls([{**features, "captions": captions, "caption_image": caption_image}])

    @classmethod
    def open(cls, folders: str | Path | Sequence[str | Path], *, verify: bool = False) -> FeatureStore:
        """Map one store, or several as one.

        Args:
            verify: compare every shard with its checksum; without it, only sizes are compared.

        Raises:
            DataError: not a store, a shard missing or corrupted (which one), or stores that do not belong together.
        """
        paths = [Path(folders)] if isinstance(folders, (str, Path)) else [Path(folder) for folder in folders]
        if not paths:
            raise InputError("no feature store was given")
        if twice := [path for n, path in enumerate(paths) if path.resolve() in {p.resolve() for p in paths[:n]}]:
            raise DataError(f"{twice[0]} is given twice: its pictures would count double; name every store once")
        manifests = [Manifest.read(path) for path in paths]
        for path, manifest in zip(paths[1:], manifests[1:], strict=True):
            if different := manifests[0].differences(manifest):
                raise DataError(f"{paths[0]} and {path} cannot be used as one store: {'; '.join(different)}")
        shards = [(path, shard) for path, manifest in zip(paths, manifests, strict=True) for shard in manifest.shards]
        _refuse_copies(shards)
        wrong = [line for path, shard in shards if (line := check_shard(path, shard, contents=verify))]
        if wrong:
            raise DataError(
                f"{len(wrong)} of {len(shards)} shards cannot be used: {'; '.join(wrong[:5])}; running 'talk2dino "
                "extract' again makes damaged shards anew"
            )
        pieces = [_piece(path, shard) for path, shard in shards if shard.images]
        if not pieces:
            raise DataError(f"{', '.join(map(str, paths))}: not one complete shard with pictures yet")
        return cls(pieces, manifests)

    @property
    def num_captions(self) -> int:
        """Captions of this view."""
        return len(self.rows)

    @property
    def num_view_images(self) -> int:
        """Pictures with a caption in this view."""
        return len(torch.unique(self.caption_image[self.rows]))

    def fingerprint(self) -> str:
        """Tells data apart: the shards' checksums (the shape, for tensors in memory), and which rows this view has."""
        digest = hashlib.sha256(self.rows.numpy().tobytes())
        for manifest in self.manifests:
            digest.update("".join(shard.sha256 for shard in manifest.shards).encode())
        digest.update(repr([(name, self.shape(name), str(self.dtype(name))) for name in self.names]).encode())
        return digest.hexdigest()

    @property
    def text_dim(self) -> int:
        return self._pieces["captions"][0].shape[1]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one row of a feature, e.g. (M, D) for ``heads``."""
        return tuple(self._feature(name)[0].shape[1:])

    def dtype(self, name: str) -> torch.dtype:
        return self._feature(name)[0].dtype

    def _feature(self, name: str) -> list[Tensor]:
        if name not in self._pieces:
            have = ",".join(other for other in self.names if other != "captions")
            raise DataError(
                f"{'this store has' if len(self.manifests) < 2 else 'these stores share'} no feature '{name}', only: {have}; "
                f"extract again with --features {name},{have}"
            )
        return self._pieces[name]

    def split(self, fraction: float, seed: int) -> tuple[FeatureStore, FeatureStore]:
        """Two views on the same files: the captions of the other pictures, and those of a share drawn by ``seed``."""
        if not 0 < fraction < 1:
            raise InputError(f"the validation share must lie between 0 and 1; got {fraction}")
        held = torch.zeros(self.num_images, dtype=torch.bool)
        order = np.random.default_rng([seed, 1]).permutation(self.num_images)
        held[torch.from_numpy(order[: max(1, round(fraction * self.num_images))])] = True
        chosen = held[self.caption_image[self.rows]]
        return self._view(self.rows[~chosen]), self._view(self.rows[chosen])

    def _view(self, rows: Tensor) -> FeatureStore:
        view = object.__new__(FeatureStore)
        view.__dict__.update(self.__dict__, rows=rows)
        return view

    def gather(self, name: str, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """Rows of ``captions`` or of an image feature, copied into ``out`` when given.

        Args:
            rows: (B,) row numbers; ascending ones are read shard by shard, which is faster.
            out: (B, ...) of the stored dtype.
        """
        tensors, starts = self._feature(name), self._starts[name]
        if out is None:
            out = tensors[0].new_empty((len(rows), *tensors[0].shape[1:]))
        if len(tensors) == 1:
            return torch.index_select(tensors[0], 0, rows, out=out)
        if len(tensors) > len(rows) // 16:  # few rows a shard: a copy a row costs less than a call a shard
            pieces = (torch.searchsorted(starts, rows, right=True) - 1).tolist()
            offsets, views, target = starts.tolist(), [tensor.numpy() for tensor in tensors], out.numpy()
            for place, (piece, row) in enumerate(zip(pieces, rows.tolist(), strict=True)):
                target[place] = views[piece][row - offsets[piece]]
            return out
        if len(rows) > 1 and bool((rows[1:] < rows[:-1]).any()):
            order = rows.argsort()
            out[order] = self.gather(name, rows[order])
            return out
        cuts = torch.searchsorted(rows, starts).tolist()
        for piece, tensor in enumerate(tensors):
            first, last = cuts[piece], cuts[piece + 1]
            if first < last:
                torch.index_select(tensor, 0, rows[first:last] - starts[piece], out=out[first:last])
        return out


def _refuse_copies(shards: Sequence[tuple[Path, Shard]]) -> None:
    """Raises DataError when a shard's very content is there twice, such as a part beside the whole that it went into."""
    places: dict[str, Path] = {}
    for path, shard in shards:
        if shard.images and shard.sha256 in places:
            raise DataError(
                f"{path / shard.file} holds the same pictures as {places[shard.sha256]}, and they would count double: "
                "leave out one of the two stores"
            )
        places[shard.sha256] = path / shard.file


def _piece(path: Path, shard: Shard) -> dict[str, Tensor]:
    """The tensors of a shard; raises DataError when they are not what its manifest says."""
    tensors = map_safetensors(path / shard.file)
    lengths = {name: len(value) for name, value in tensors.items()}
    expected = {name: shard.captions if name.startswith("caption") else shard.images for name in lengths}
    owners = tensors.get("caption_image")
    if owners is None or lengths != expected or (len(owners) and not 0 <= owners.min() <= owners.max() < shard.images):
        raise DataError(
            f"{path / shard.file} does not hold what its manifest says ({shard.images} pictures, {shard.captions} captions; "
            f"found {', '.join(f'{name} {count}' for name, count in sorted(lengths.items()))}): extract it again"
        )
    return tensors


def map_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file as views of a private memory map: nothing is read until it is touched."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > size - 8:
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        whole = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
        tensors = {}
        for name, entry in header.items():
            first, last = (8 + length + offset for offset in entry["data_offsets"])
            tensors[name] = whole[first:last].view(_DTYPES[entry["dtype"]]).view(entry["shape"])
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DataError(f"{path} is damaged or not a feature shard ({error})") from error
    return tensors
