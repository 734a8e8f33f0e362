"""DINO alone: segments without words, one clustering a picture.

k-means: cosine k-means (spherical, k-means++ start) of the patch features of one picture.
spectral: with the affinity W_pq = max(0, cos(v_p, v_q))^sharpness and the normalised Laplacian L = 1 - D^-1/2 W D^-1/2,
    k-means of the rows (scaled to length 1) of the eigenvectors of the K smallest eigenvalues.
Number of segments: given, or by the eigengap rule: K is where the gap between the sorted eigenvalues of L,
    lambda_{K+1} - lambda_K, is largest, among 2 .. most.
Either way a segment is then scored by the cosine with its mean feature, upsampled to pixels like a class's map.

Segments have no class. Two ways to evaluate them with the truth's help, one to one and with as many pixels in agreement
as possible (Hungarian matching), are customary and kept apart here:

    benchmark   the segments' mean features of (at most 200) unlabelled pictures of the benchmark are clustered by
                k-means into as many clusters as there are classes; each segment takes its nearest cluster, and clusters
                are matched to classes once, over the whole run
    picture     each picture's segments are matched to the classes of that picture by itself; unmatched segments count
                as none of the classes. The truth tells what is in every single picture, so this is an upper bound that
                says how well DINO's features cut pictures up, not how well anything is recognised

Source: Ng, Jordan and Weiss, On spectral clustering, NIPS 2001; Melas-Kyriazi et al., Deep spectral methods, CVPR 2022
(arXiv 2205.07839) for affinities of DINO features and for clusters of segments matched over a whole benchmark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.errors import InputError, MissingExtraError
from talk2dino.io.images import Picture, read_image
from talk2dino.methods.maps import PictureLoop, make_segmentation
from talk2dino.models.preprocess import normalise
from talk2dino.types import Segmentation

ALGORITHMS = ("kmeans", "spectral")
MATCHINGS = ("benchmark", "picture")
#: Unlabelled pictures that the clusters of the "benchmark" matching are made from.
FIT_PICTURES = 200
#: Patches beyond which the grid is averaged down for the affinity matrix: 2304 squared are 21 MB.
MOST_PATCHES = 2304


def kmeans(points: Tensor, count: int, *, iterations: int = 30, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Spherical k-means: (P, D) rows of length 1 to centres (K, D) of length 1 and labels (P,)."""
    generator = torch.Generator().manual_seed(seed)
    count = min(count, len(points))
    centres = points[torch.randint(len(points), (1,), generator=generator)]
    for _ in range(count - 1):  # k-means++: far points are likelier starts
        distance = (1 - points @ centres.T).amin(1).clamp(min=1e-12)
        centres = torch.cat([centres, points[torch.multinomial(distance, 1, generator=generator)]])
    labels = (points @ centres.T).argmax(1)
    for _ in range(iterations):
        sums = torch.zeros_like(centres).index_add_(0, labels, points)
        filled = torch.bincount(labels, minlength=count) > 0
        centres = torch.where(filled[:, None], F.normalize(sums, dim=1), centres)
        new = (points @ centres.T).argmax(1)
        if torch.equal(new, labels):
            break
        labels = new
    return centres, labels


def best_kmeans(points: Tensor, count: int, *, restarts: int = 10) -> Tensor:
    """Centres (K, D) of the best of several k-means runs: the one whose points lie nearest to their centres."""
    runs = [kmeans(points, count, seed=seed)[0] for seed in range(restarts)]
    return max(runs, key=lambda centres: float((points @ centres.T).amax(1).sum()))


def laplacian_spectrum(features: Tensor, count: int, sharpness: float) -> tuple[Tensor, Tensor]:
    """The ``count`` smallest eigenvalues (ascending) and eigenvectors (P, count) of the normalised Laplacian."""
    unit = F.normalize(features.double(), dim=1)
    affinity = (unit @ unit.T).clamp(min=0) ** sharpness
    scale = affinity.sum(1).rsqrt()
    laplacian = torch.eye(len(unit), dtype=torch.float64) - scale[:, None] * affinity * scale[None, :]
    values, vectors = torch.linalg.eigh(laplacian)
    return values[:count], vectors[:, :count]


def number_of_segments(eigenvalues: Tensor) -> int:
    """The eigengap rule: the K from 2 on after which the sorted eigenvalues jump most."""
    gaps = eigenvalues[2:] - eigenvalues[1:-1]
    return int(gaps.argmax()) + 2 if len(gaps) else 1


def match_segments(segments: np.ndarray, truth: np.ndarray, class_count: int, *, ignore: int = 255) -> np.ndarray:
    """Give segments classes by Hungarian matching with the truth: one to one, most pixels in agreement.

    Args:
        segments: (H, W) integers. truth: (H, W) class indices with ``ignore``.

    Returns:
        (H, W) class indices, -1 where a segment was matched to no class (or only to a class without a shared pixel).
    """
    counted = truth != ignore
    most = int(segments.max(initial=0)) + 1
    pairs = segments[counted].astype(np.int64) * class_count + truth[counted]
    agreement = np.bincount(pairs, minlength=most * class_count).reshape(most, class_count)
    return assign(agreement)[segments]


def assign(agreement: np.ndarray) -> np.ndarray:
    """Hungarian matching: (S, N) pixels of segment s in class n to the class of each segment, -1 for none."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise MissingExtraError.of("scipy", "freeda", "matching segments to classes") from None
    rows, columns = linear_sum_assignment(agreement, maximize=True)
    table = np.full(len(agreement), -1, dtype=np.int32)
    found = agreement[rows, columns] > 0
    table[rows[found]] = columns[found]
    return table


class DinoClusters:
    """Clusters of DINO's patch features behind ``segment()``; the words asked for are not used.

    Args:
        segmenter: brings the vision model.
        algorithm: "spectral" or "kmeans".
        segments: number of segments, or None for the eigengap rule.
        most: largest number that the rule may choose.
        sharpness: exponent of the affinity.
        matching: how an evaluation gives segments classes, "benchmark" or "picture"; see the top of this file.
        size: short side of the picture, in pixels; the model's own when None.
    """

    method = "dino-clusters"
    matched = True

    def __init__(
        self, segmenter: Any, *, algorithm: str = "spectral", segments: int | None = None, most: int = 8,
        sharpness: float = 8.0, matching: str = "benchmark", size: int | None = None,
    ) -> None:  # fmt: skip
        if algorithm not in ALGORITHMS:
            raise InputError(f"unknown clustering {algorithm!r}; accepted: {', '.join(ALGORITHMS)}")
        if matching not in MATCHINGS:
            raise InputError(f"unknown matching {matching!r}; accepted: {', '.join(MATCHINGS)}")
        if (segments is not None and segments < 1) or most < 2:
            raise InputError(f"segments must be at least 1 and most at least 2; got {segments} and {most}")
        self.matching = matching
        self.vision = segmenter.vision
        self.name = segmenter.name
        self.algorithm, self.segments, self.most, self.sharpness = algorithm, segments, most, sharpness
        self.loop = PictureLoop(size or segmenter.config.size, segmenter.vision.patch_size)

    @property
    def info(self) -> dict[str, Any]:
        """What results say of the system."""
        return {
            "method": self.method, "model": self.name, "algorithm": self.algorithm, "matching": self.matching,
            "segments": self.segments or f"eigengap, 2 to {self.most}", "sharpness": self.sharpness,
        }  # fmt: skip

    def encode_text(self, prompts: Any) -> Any:
        return prompts

    def cluster(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(h, w, D) patch features of one picture to its segments' mean features (K, D), of length 1, and the cosines
        of all patches with them (K, h, w)."""
        h, w, _ = features.shape
        coarse = features
        if h * w > MOST_PATCHES:
            scale = (MOST_PATCHES / (h * w)) ** 0.5
            size = (max(1, int(h * scale)), max(1, int(w * scale)))
            coarse = F.adaptive_avg_pool2d(features.permute(2, 0, 1), size).permute(1, 2, 0)
        points = F.normalize(coarse.flatten(0, 1), dim=1)
        count = self.segments
        if count is None or self.algorithm == "spectral":
            values, vectors = laplacian_spectrum(points, max(self.most + 1, count or 0), self.sharpness)
            count = min(count or number_of_segments(values), len(points))
            if self.algorithm == "spectral":
                _, labels = kmeans(F.normalize(vectors[:, :count], dim=1).float(), count)
        if self.algorithm == "kmeans":
            _, labels = kmeans(points, count)
        labels = torch.unique(labels, return_inverse=True)[1]  # a cluster may have lost all its patches
        count = int(labels.max()) + 1
        centres = F.normalize(torch.zeros(count, points.shape[1]).index_add_(0, labels, points), dim=1)
        return centres, torch.einsum("hwd,kd->khw", F.normalize(features, dim=-1), centres)

    def features(self, pixels: Tensor) -> Tensor:
        """(1, 3, H, W) RGB 0..255 to (h, w, D) patch features."""
        return self.vision(normalise(pixels).to(self.vision.device)).patches[0].float().cpu()

    @torch.inference_mode()
    def fit(self, images: Iterable[Any], count: int) -> Tensor:
        """Cluster the segments of unlabelled pictures, for the matching over a benchmark: (count, D) centres.

        They are the ``vocabulary`` of :meth:`segment_batch`; the object itself stays as it was.
        """
        found = []

        def remember(pixels: Tensor) -> Tensor:
            centres, maps = self.cluster(self.features(pixels))
            found.append(centres)
            return maps[None]

        for image in images:
            list(self.loop.maps([read_image(image)], remember, mode="whole", refine=False))
        return best_kmeans(torch.cat(found), count)

    @staticmethod
    def _as_clusters(centres: Tensor, maps: Tensor, vocabulary: Tensor) -> Tensor:
        """(K, h, w) maps of segments to (N, h, w) maps of clusters: the largest of a cluster's segments, else -1."""
        nearest = (centres @ vocabulary.T).argmax(1)
        clusters = maps.new_full((len(vocabulary), *maps.shape[1:]), -1.0)
        for segment, cluster in enumerate(nearest.tolist()):
            clusters[cluster] = torch.maximum(clusters[cluster], maps[segment])
        return clusters

    @torch.inference_mode()
    def _segment(
        self, picture: Picture, vocabulary: Tensor | None, return_scores: bool, info: dict[str, Any]
    ) -> Segmentation:
        def score(pixels: Tensor) -> Tensor:
            centres, maps = self.cluster(self.features(pixels))
            return (maps if vocabulary is None else self._as_clusters(centres, maps, vocabulary))[None]

        ((maps, resizes),) = self.loop.maps([picture], score, mode=info["mode"], refine=info["refined"])
        kind = "segment" if vocabulary is None else "cluster"
        names = [f"{kind} {i + 1}" for i in range(len(maps))]
        return make_segmentation(maps, resizes, names, None, return_scores=return_scores, info=info)

    def segment_batch(
        self, images: Sequence[Any], prompts: Any = None, *, background: Any = None, clean: bool | None = None,
        refine: bool = False, mode: str = "whole", return_scores: bool = False, batch_size: int = 8,
        vocabulary: Tensor | None = None,
    ) -> list[Segmentation]:  # fmt: skip
        """Arguments as in ``Segmenter.segment_batch``; there is no slide mode, no cleaning and no threshold.

        With a ``vocabulary`` (:meth:`fit`) segments are named by their nearest of its clusters, the same in every picture.
        With a background asked for, the background is one of the segments like any other.
        """
        if clean or mode == "slide":
            raise InputError(
                "dino-clusters clusters each picture as a whole: it has no slide mode and no cleaning; use mode 'whole'"
            )
        info = {**self.info, "mode": mode, "refined": refine}
        return [self._segment(read_image(image), vocabulary, return_scores, info) for image in images]

    def segment(self, image: Any, prompts: Any = None, **options: Any) -> Segmentation:
        """One picture; options as in :meth:`segment_batch`."""
        return self.segment_batch([image], prompts, **options)[0]
