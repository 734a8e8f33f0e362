"""Rank the images of a folder by words: ``talk2dino find "a red car" photos/``.

    images --> patches --> 16 clusters per image: mean features and shares --> index on disk       once per image
    index, words --> scores of the clusters --> share of the image that answers to the words        a question

The index takes 16 D float16 and 16 float32 values per image: 6 KB with the embedded model (D = 192), 25 KB with ViT-B.

    folder/config.json       what made the features
    folder/shard-00000.npz   features (n, 16, D) float16 of length 1, shares (n, 16) float32
    folder/index.jsonl       one line per image: path, state of the file, shard and row
"""

from __future__ import annotations

import io
import json
import logging
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.encoded import encode_files, unit_patches
from talk2dino.errors import DataError, InputError
from talk2dino.io.atomic import remove_leftovers, write_atomically
from talk2dino.io.journal import Journal
from talk2dino.io.lock import folder_lock
from talk2dino.io.names import readable
from talk2dino.io.settings import check_same_settings, read_json
from talk2dino.stages.clusters import kmeans
from talk2dino.words.classes import class_scores

if TYPE_CHECKING:
    from talk2dino.progress import ProgressCallback
    from talk2dino.segmenter import Segmenter
    from talk2dino.types import TextFeatures

log = logging.getLogger(__name__)

CLUSTERS = 16
#: Images per shard; an interrupted run loses at most so many.
SHARD = 256
#: Distance from the threshold, in cosines, at which a cluster counts for 73 % or 27 %.
SOFTNESS = 0.05
#: Images whose scores are computed at once.
CHUNK = 1024


@dataclass(frozen=True)
class Found:
    """One image and how it answers to the words.

    Attributes:
        path: the image.
        relevance: expected share of the image that shows the words, 0..1; with several classes, that of the rarest.
        share: share of the image above the threshold, 0..1.
        score: the best calibrated cosine of a part of the image.
    """

    path: Path
    relevance: float
    share: float
    score: float

    def as_dict(self) -> dict[str, object]:
        values = {name: round(getattr(self, name), 5) for name in ("relevance", "share", "score")}
        return {"image": str(self.path), **values}


def summarise_patches(patches: Tensor) -> tuple[Tensor, Tensor]:
    """(P, D) patches of length 1 to the (16, D) mean features of clusters, of length 1, and their (16,) shares.

    An image with fewer distinct patches has fewer clusters; the rest has share 0.
    """
    centres, labels = kmeans(patches, CLUSTERS, iterations=10)
    shares = torch.bincount(labels, minlength=CLUSTERS).float() / len(patches)
    missing = CLUSTERS - len(centres)
    return F.pad(centres, (0, 0, 0, missing)), shares[:CLUSTERS]


class ImageIndex:
    """The encoded images of a folder, on disk or in memory, that can be asked again and again.

    Args:
        segmenter: encodes images and words.
        folder: where the index is kept; None: in memory only.
        mode: how images are seen.

    Raises:
        InputError: the folder holds the index of another model or mode. DataError: a damaged index.
    """

    def __init__(self, segmenter: Segmenter, folder: Path | None, *, mode: str = "whole") -> None:
        segmenter.method.check_examples()  # only methods whose classes are compared with patches
        self.segmenter, self.folder, self.mode = segmenter, folder, mode
        self.threshold = segmenter.method.cosine_threshold
        if self.threshold is None:
            raise InputError(f"{segmenter.method.name} does not compare words with patches: use another method")
        self.rows: dict[str, tuple[str, int, int]] = {}  # path -> state, shard, row
        self.shards: list[tuple[np.ndarray, np.ndarray]] = []
        self.journal: Journal | None = None
        if folder is not None:
            self._open(folder)

    def _open(self, folder: Path) -> None:
        settings = {"space": self.segmenter.method.space, "mode": self.mode, "clusters": CLUSTERS}
        if (folder / "config.json").is_file():
            check_same_settings(read_json(folder / "config.json"), settings, folder)
        else:
            write_atomically(folder / "config.json", json.dumps(settings, indent=2) + "\n")
        self.journal = Journal(folder / "index.jsonl", sync=False, damaged="skip")
        count = 0
        while (path := folder / f"shard-{count:05d}.npz").is_file():
            self.shards.append(_read_shard(path))
            count += 1
        for record in self.journal.records:
            if record["shard"] < count and record["row"] < len(self.shards[record["shard"]][0]):
                self.rows[record["image"]] = (record["state"], record["shard"], record["row"])

    def update(self, paths: Sequence[Path], *, batch_size: int = 4, progress: ProgressCallback | None = None) -> int:
        """Encode the images that are new or have changed; returns their number. Unreadable images are left out."""
        todo = [path for path in paths if self.rows.get(_key(path), ("",))[0] != _state(path)]
        if not todo:
            return 0
        if self.folder is None:
            return self._encode(todo, batch_size, progress)
        with folder_lock(self.folder):
            remove_leftovers(self.folder)
            return self._encode(todo, batch_size, progress)

    def _encode(self, paths: Sequence[Path], batch_size: int, progress: ProgressCallback | None) -> int:
        waiting: list[tuple[Path, str, Tensor, Tensor]] = []
        done = 0
        try:
            for path, features in encode_files(
                self.segmenter, paths, mode=self.mode, batch_size=batch_size, progress=progress
            ):
                centres, shares = summarise_patches(unit_patches(self.segmenter, features).flatten(0, 2).cpu())
                waiting.append((path, _state(path), centres, shares))
                done += 1
                if len(waiting) == SHARD:
                    self.add(waiting)
                    waiting = []
        finally:  # an interrupted run keeps what it has
            if waiting:
                self.add(waiting)
        return done

    def add(self, images: Sequence[tuple[Path, str, Tensor, Tensor]]) -> None:
        """Add one shard: (path, state of the file, (16, D) features, (16,) shares) of each image."""
        features = torch.stack([centres for _, _, centres, _ in images]).half().numpy()
        shares = torch.stack([own for _, _, _, own in images]).numpy()
        number = len(self.shards)
        if self.folder is not None:
            content = io.BytesIO()
            np.savez(content, features=features, shares=shares)
            write_atomically(self.folder / f"shard-{number:05d}.npz", content.getvalue())
        self.shards.append((features, shares))
        for row, (path, state, _, _) in enumerate(images):
            if self.journal is not None:
                self.journal.add({"image": _key(path), "state": state, "shard": number, "row": row})
            self.rows[_key(path)] = (state, number, row)

    @torch.inference_mode()
    def ask(self, text: TextFeatures, paths: Sequence[Path]) -> list[Found]:
        """Rank images that are in the index, the best first.

        Args:
            text: the classes; an image has to show all of them. Parts that answer better to a negative class do not count.
            paths: the images; those that are not in the index are left out.

        Raises:
            InputError: words of another model.
        """
        if text.space and text.space != self.segmenter.method.space:
            raise InputError(
                f"these words were encoded with {text.model}, not with {self.segmenter.name} and its weights"
            )
        known = [path for path in paths if _key(path) in self.rows]
        found: list[Found] = []
        for start in range(0, len(known), CHUNK):
            chosen = known[start : start + CHUNK]
            places = [self.rows[_key(path)][1:] for path in chosen]
            features = torch.from_numpy(np.stack([self.shards[shard][0][row] for shard, row in places])).float()
            shares = torch.from_numpy(np.stack([self.shards[shard][1][row] for shard, row in places]))
            values = self._relevance(features, shares, text)
            found += [Found(path, *row) for path, row in zip(chosen, values.tolist(), strict=True)]
        return sorted(found, key=lambda one: (-one.relevance, -one.score, str(one.path)))

    def _relevance(self, features: Tensor, shares: Tensor, text: TextFeatures) -> Tensor:
        """(B, 16, D) features and (B, 16) shares to (B, 3): relevance, share and best score."""
        assert self.threshold is not None
        scores = class_scores(features.flatten(0, 1), text).cpu().unflatten(0, shares.shape)  # [B, 16, N]
        wanted, unwanted = scores[..., : text.positive], scores[..., text.positive :]
        allowed = shares[..., None].expand_as(wanted)
        if text.negative:
            allowed = allowed * (wanted >= unwanted.amax(-1, keepdim=True))
        sure = torch.sigmoid((wanted - self.threshold) / SOFTNESS)
        relevance = (allowed * sure).sum(1).amin(-1)
        share = (allowed * (wanted >= self.threshold)).sum(1).amin(-1)
        best = wanted.masked_fill(allowed == 0, -1).amax(1).amin(-1)
        return torch.stack([relevance, share, best], dim=1)


def _read_shard(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            features, shares = stored["features"], stored["shares"]
        if features.ndim != 3 or features.shape[:2] != shares.shape:
            raise ValueError(f"features {features.shape} and shares {shares.shape}")
        return features, shares
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{readable(path)} is damaged or not part of an index ({error}): delete the folder {readable(path.parent)}, and "
            "talk2dino find builds it again"
        ) from None


def _key(path: Path) -> str:
    return os.path.abspath(path)


def _state(path: Path) -> str:
    """What changes when the file changes."""
    try:
        stat = path.stat()
    except OSError:
        return "missing"
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def default_index(segmenter: Segmenter, mode: str) -> Path | None:
    """The index in the cache for one model and mode, shared by all folders; None if there is no cache."""
    from talk2dino.io.cache import cache_folder

    cache = cache_folder()
    return None if cache is None else cache / "find" / f"{segmenter.method.space}-{mode}".replace(":", "-")
