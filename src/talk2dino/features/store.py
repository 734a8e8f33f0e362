"""A feature store opened for training: memory-mapped, larger than memory, with random access; several count as one."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from talk2dino.errors import DataError, InputError, ShapeError
from talk2dino.features.manifest import Manifest, Shard, check_shard


class FeatureStore:
    """Image features and caption embeddings of K images and L captions, in one or several pieces.

    Attributes:
        caption_image: (L,) row of the image that each caption belongs to.
        rows: the caption rows of this view; all of them unless the view came from :meth:`split`.
        manifests: one per folder; empty for a store in memory.
    """

    def __init__(self, pieces: Sequence[Mapping[str, Tensor]], manifests: Sequence[Manifest] = ()) -> None:
        if not pieces:
            raise DataError("a feature store needs at least one shard")
        self.names = sorted(set.intersection(*map(set, pieces)) - {"caption_image"})
        features = [name for name in self.names if name != "captions"]
        if "captions" not in self.names or not features:
            raise DataError(f"a feature store needs captions and at least one image feature; got {self.names}")
        self.manifests = list(manifests)
        self._pieces = {name: [piece[name] for piece in pieces] for name in self.names}
        self._starts = {name: torch.tensor([0, *map(len, tensors)]).cumsum(0) for name, tensors in self._pieces.items()}
        starts = self._starts[features[0]]
        owners = [piece["caption_image"].long() + start for piece, start in zip(pieces, starts, strict=False)]
        self.caption_image = torch.cat(owners)
        self.rows = torch.arange(len(self.caption_image))
        self.num_images = int(starts[-1])

    @classmethod
    def from_tensors(
        cls, images: Tensor | Mapping[str, Tensor], captions: Tensor, caption_image: Tensor
    ) -> FeatureStore:
        """A store in memory.

        Args:
            images: (K, M, D) head embeddings, or several features by name, each (K, ...).
            captions: (L, C) raw text embeddings.
            caption_image: (L,) the image of each caption, 0..K-1.

        Raises:
            ShapeError: the shapes do not fit together. InputError: ``caption_image`` is out of range.
        """
        features = dict(images) if isinstance(images, Mapping) else {"heads": images}
        count = len(next(iter(features.values())))
        if any(len(value) != count for value in features.values()):
            raise ShapeError(f"features differ in length: { {k: tuple(v.shape) for k, v in features.items()} }")
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
        """Map one store into memory, or several as one. Compares sizes of shards, and with ``verify`` checksums.

        Raises:
            DataError: not a store, a missing or corrupted shard, or stores that do not belong together.
        """
        paths = list(map(Path, [folders] if isinstance(folders, (str, Path)) else folders))
        if not paths:
            raise InputError("name at least one feature store")
        if twice := [path for n, path in enumerate(paths) if path.resolve() in {p.resolve() for p in paths[:n]}]:
            raise DataError(f"{twice[0]} is given twice, so its images would count twice: name each store once")
        manifests = [Manifest.read(path) for path in paths]
        for path, manifest in zip(paths[1:], manifests[1:], strict=True):
            if different := manifests[0].differences(manifest):
                raise DataError(f"{paths[0]} and {path} cannot be used together: {'; '.join(different)}")
        shards = [(path, shard) for path, manifest in zip(paths, manifests, strict=True) for shard in manifest.shards]
        places: dict[str, Path] = {}
        for path, shard in shards:  # such as a part beside the store that it was merged into
            if shard.images and shard.sha256 in places:
                raise DataError(
                    f"{path / shard.file} holds the same images as {places[shard.sha256]}, so they would count twice: leave "
                    "out one of the two stores"
                )
            places[shard.sha256] = path / shard.file
        if wrong := [line for path, shard in shards if (line := check_shard(path, shard, contents=verify))]:
            raise DataError(
                f"{len(wrong)} of {len(shards)} shards cannot be used: {'; '.join(wrong[:5])}; run 'talk2dino extract' "
                "again to repair them"
            )
        pieces = [_piece(path, shard) for path, shard in shards if shard.images]
        if not pieces:
            raise DataError(f"{', '.join(map(str, paths))} has no complete shard with images yet")
        return cls(pieces, manifests)

    @property
    def num_captions(self) -> int:
        """Captions in this view."""
        return len(self.rows)

    @property
    def num_view_images(self) -> int:
        """Images with a caption in this view."""
        return len(torch.unique(self.caption_image[self.rows]))

    def fingerprint(self) -> str:
        """SHA-256 over the shards' checksums (the shapes, for a store in memory) and the rows of this view."""
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
            found = ",".join(other for other in self.names if other != "captions")
            have = "this store has" if len(self.manifests) < 2 else "these stores share"
            raise DataError(f"{have} no feature '{name}', only: {found}; extract again with --features {name},{found}")
        return self._pieces[name]

    def split(self, fraction: float, seed: int) -> tuple[FeatureStore, FeatureStore]:
        """Two views of the same files, for training and for validation on a share (0..1) of the images."""
        if not 0 < fraction < 1:
            raise InputError(f"the validation share must lie between 0 and 1; got {fraction}")
        held = torch.zeros(self.num_images, dtype=torch.bool)
        order = np.random.default_rng([seed, 1]).permutation(self.num_images)
        held[torch.from_numpy(order[: max(1, round(fraction * self.num_images))])] = True
        chosen = held[self.caption_image[self.rows]]
        training, validation = copy.copy(self), copy.copy(self)
        training.rows, validation.rows = self.rows[~chosen], self.rows[chosen]
        return training, validation

    def gather(self, name: str, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """Read rows of ``captions`` or of an image feature.

        Args:
            rows: (B,) row numbers. Ascending rows are read shard by shard, which is faster.
            out: (B, ...) of the stored dtype, to copy into and return.
        """
        tensors, starts = self._feature(name), self._starts[name]
        if out is None:
            out = tensors[0].new_empty((len(rows), *tensors[0].shape[1:]))
        if len(tensors) == 1:
            return torch.index_select(tensors[0], 0, rows, out=out)
        if len(tensors) > len(rows) // 16:  # few rows per shard: copying row by row is faster
            pieces = (torch.searchsorted(starts, rows, right=True) - 1).tolist()
            offsets, views, target = starts.tolist(), [tensor.numpy() for tensor in tensors], out.numpy()
            for place, (piece, row) in enumerate(zip(pieces, rows.tolist(), strict=True)):
                target[place] = views[piece][row - offsets[piece]]
            return out
        if len(rows) > 1 and bool((rows[1:] < rows[:-1]).any()):
            order = rows.argsort()
            out[order] = self.gather(name, rows[order])
            return out
        cuts = itertools.pairwise(torch.searchsorted(rows, starts).tolist())
        for tensor, start, (first, last) in zip(tensors, starts, cuts, strict=False):
            if first < last:
                torch.index_select(tensor, 0, rows[first:last] - start, out=out[first:last])
        return out


def _piece(path: Path, shard: Shard) -> dict[str, Tensor]:
    """The tensors of a shard; raises DataError if they disagree with the manifest."""
    tensors = map_safetensors(path / shard.file)
    lengths = {name: len(value) for name, value in sorted(tensors.items())}
    expected = {name: shard.captions if name.startswith("caption") else shard.images for name in lengths}
    owners = tensors.get("caption_image")
    if owners is None or lengths != expected or (len(owners) and not 0 <= owners.min() <= owners.max() < shard.images):
        found = ", ".join(f"{name} {count}" for name, count in lengths.items())
        raise DataError(
            f"{path / shard.file} disagrees with its manifest: expected {shard.images} images and {shard.captions} captions, "
            f"found {found}; extract it again"
        )
    return tensors


def map_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, memory-mapped; raises DataError if it is damaged or not a feature shard."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise DataError(f"{path} is damaged or not a feature shard ({error})") from None
