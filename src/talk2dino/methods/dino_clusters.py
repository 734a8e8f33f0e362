"""DINO alone: the patch features of each image are clustered into segments; prompts are not used.

k-means: spherical k-means of the patch features, with k-means++ starts.
spectral: with affinities W_pq = max(0, cos(v_p, v_q))^sharpness and the normalised Laplacian L = 1 - D^-1/2 W D^-1/2,
    k-means of the rows, scaled to length 1, of the eigenvectors of the K smallest eigenvalues.
Number of segments: given, or by the eigengap rule: the K in 2 .. most with the largest lambda_{K+1} - lambda_K, where
    lambda are the sorted eigenvalues of L.
The score of a segment is the cosine with its mean feature, upsampled like the score of a class.

Segments have no class; an evaluation matches them to the truth (:mod:`talk2dino.evaluation.matching`).

Source: Ng, Jordan and Weiss, On spectral clustering, NIPS 2001; Melas-Kyriazi et al., Deep spectral methods, CVPR 2022
(arXiv 2205.07839) for affinities of DINO features and for clusters of segments over a whole benchmark. The default sharpness
and largest number of segments are our choices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.errors import InputError
from talk2dino.methods.base import Facts, Method
from talk2dino.stages.clusters import best_kmeans, kmeans
from talk2dino.towers import Towers
from talk2dino.types import ImageFeatures, TextFeatures
from talk2dino.words.prompts import PromptList, Prompts

ALGORITHMS = ("kmeans", "spectral")
#: A larger grid is averaged down for the affinity matrix, which takes 21 MB in float32 for 2304 patches.
MOST_PATCHES = 2304


def laplacian_spectrum(features: Tensor, count: int, sharpness: float) -> tuple[Tensor, Tensor]:
    """The ``count`` smallest eigenvalues, ascending, and (P, count) eigenvectors of the normalised Laplacian."""
    unit = F.normalize(features.double(), dim=1)
    affinity = (unit @ unit.T).clamp(min=0) ** sharpness
    scale = affinity.sum(1).rsqrt()
    laplacian = torch.eye(len(unit), dtype=torch.float64) - scale[:, None] * affinity * scale[None, :]
    values, vectors = torch.linalg.eigh(laplacian)
    return values[:count], vectors[:, :count]


def number_of_segments(eigenvalues: Tensor) -> int:
    """The eigengap rule: the K >= 2 with the largest gap between the eigenvalues K and K + 1."""
    gaps = eigenvalues[2:] - eigenvalues[1:-1]
    return int(gaps.argmax()) + 2 if len(gaps) else 1


class DinoClusters(Method):
    """Clusters of DINO's patch features; the prompts are not used.

    Args:
        towers: bring the vision model.
        algorithm: "spectral" or "kmeans".
        segments: number of segments, or None for the eigengap rule.
        most: largest number that the eigengap rule may choose.
        sharpness: exponent of the affinity.
        size: short side of the images in pixels; None: the model's own.
    """

    name = "dino-clusters"
    facts = Facts(
        "DINO alone: segments without words",
        towers=("vision",), modes=("whole", "square"), evaluation_mode="whole", matched=True,
    )  # fmt: skip

    def __init__(
        self, towers: Towers, *, algorithm: str = "spectral", segments: int | None = None, most: int = 8,
        sharpness: float = 8.0, size: int | None = None,
    ) -> None:  # fmt: skip
        if algorithm not in ALGORITHMS:
            raise InputError(f"unknown clustering {algorithm!r}; accepted: {', '.join(ALGORITHMS)}")
        if (segments is not None and segments < 1) or most < 2:
            raise InputError(f"segments must be at least 1 and most at least 2; got {segments} and {most}")
        super().__init__(towers, size=size)
        self.algorithm, self.segments, self.most, self.sharpness = algorithm, segments, most, sharpness

    @property
    def options(self) -> dict[str, object]:
        return {
            "algorithm": self.algorithm, "sharpness": self.sharpness,
            "segments": self.segments or f"eigengap, 2 to {self.most}",
        }  # fmt: skip

    def encode_text(
        self, prompts: Prompts | PromptList, *, negative: object = None, templates: object = None
    ) -> TextFeatures:
        """Ignore the prompts: the segments of each image are numbered."""
        if negative:
            raise InputError("dino-clusters uses no prompts, so negative prompts have no effect: leave them out")
        return TextFeatures((), torch.zeros(0, self.towers.vision.dim), model=self.towers.name, space=self.space)

    def embed_classes(self, synonyms: Sequence[Sequence[str]], templates: Sequence[str] | None) -> Tensor:
        return torch.zeros(len(synonyms), self.towers.vision.dim)

    def encode_pixels(self, pixels: Tensor) -> ImageFeatures:
        patches = self.towers.encode(pixels).patches.float().cpu()
        return ImageFeatures(patches, (pixels.shape[2], pixels.shape[3]), pixels)

    def score(self, image: ImageFeatures, text: TextFeatures, *, clean: bool) -> Tensor:
        """(K, h, w) cosines with the mean features of the segments; with clusters of :meth:`fit`, one map per cluster."""
        centres, maps = self.cluster(image.patches[0])
        if not len(text):
            return maps
        nearest = (centres @ text.embeddings.T).argmax(1)
        clusters = maps.new_full((len(text), *maps.shape[1:]), -1.0)  # -1 where a cluster has no segment here
        for segment, cluster in enumerate(nearest.tolist()):
            clusters[cluster] = torch.maximum(clusters[cluster], maps[segment])
        return clusters

    @torch.inference_mode()
    def fit(self, images: Iterable[ImageFeatures], count: int) -> TextFeatures:
        """Cluster the segments of unlabelled images into at most ``count`` clusters, to be used in place of words.

        A segment is then named after its nearest cluster, in the same way in all images.
        """
        found = torch.cat([self.cluster(image.patches[0])[0] for image in images])
        centres = best_kmeans(found, count)  # fewer than count if there are fewer segments
        names = tuple(f"cluster {i + 1}" for i in range(len(centres)))
        return TextFeatures(names, centres, model=self.towers.name, space=self.space)

    def cluster(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Cluster the (h, w, D) patch features of one image: (K, D) mean features of length 1, (K, h, w) cosines with them."""
        h, w, _ = features.shape
        scale = min(1, (MOST_PATCHES / (h * w)) ** 0.5)
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
        labels = torch.unique(labels, return_inverse=True)[1]  # a cluster may have lost all patches
        count = int(labels.max()) + 1
        centres = F.normalize(torch.zeros(count, points.shape[1]).index_add_(0, labels, points), dim=1)
        return centres, torch.einsum("hwd,kd->khw", F.normalize(features, dim=-1), centres)
