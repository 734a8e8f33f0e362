"""Clusters of directions: spherical k-means, and how many clusters there are by the silhouette."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Mean silhouette from which clusters count as separate (Kaufman and Rousseeuw: a reasonable structure).
SEPARATE = 0.5


def kmeans(points: Tensor, count: int, *, iterations: int = 30, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Cluster (P, D) rows of length 1 by spherical k-means: (K, D) centres of length 1, and (P,) labels."""
    generator = torch.Generator().manual_seed(seed)
    count = min(count, len(points))
    centres = points[torch.randint(len(points), (1,), generator=generator)]
    for _ in range(count - 1):  # k-means++: distant points are likelier starts
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
    """(K, D) centres of the best of several k-means runs, the one with the largest sum of cosines."""
    runs = [kmeans(points, count, seed=seed)[0] for seed in range(restarts)]
    return max(runs, key=lambda centres: float((points @ centres.T).amax(1).sum()))


def silhouette(points: Tensor, labels: Tensor) -> float:
    """Mean silhouette of a clustering of (P, D) rows of length 1, with the distance 1 - cosine; -1..1.

    s_i = (b_i - a_i) / max(a_i, b_i), a_i the mean distance to the other points of the own cluster, b_i the smallest mean
    distance to another cluster. A point that is alone in its cluster has s_i = 0.

    Source: Rousseeuw, Silhouettes, J. Comput. Appl. Math. 20 (1987).
    """
    distances = (1 - points @ points.T).clamp(min=0)
    members = F.one_hot(torch.unique(labels, return_inverse=True)[1]).to(points.dtype)  # [P, K]
    sizes = members.sum(0)
    if len(sizes) < 2:
        return 0.0
    sums = distances @ members
    own = members.bool()
    within = sums[own] / (sizes[None] - 1).clamp(min=1).expand_as(sums)[own]
    between = (sums / sizes).masked_fill(own, torch.inf).amin(1)
    values = (between - within) / torch.maximum(within, between).clamp(min=1e-12)
    alone = (members * sizes).sum(1) == 1
    return float(values.masked_fill(alone, 0).mean())


def separate_clusters(points: Tensor, most: int) -> Tensor:
    """(P,) labels of (P, D) rows of length 1: the number of clusters, at most ``most``, has the best silhouette.

    One cluster unless a clustering reaches a mean silhouette of :data:`SEPARATE`. Fewer than three points are one cluster.
    """
    best, score = torch.zeros(len(points), dtype=torch.long), SEPARATE
    for count in range(2, min(most, len(points) - 1) + 1):
        labels = (points @ best_kmeans(points, count).T).argmax(1)
        if (value := silhouette(points, labels)) >= score:
            best, score = torch.unique(labels, return_inverse=True)[1], value
    return best
