"""Spherical k-means, and the number of clusters by silhouette."""

import pytest
import torch
from fakes import blobs

from talk2dino.stages.clusters import best_kmeans, kmeans, separate_clusters, silhouette


@pytest.mark.parametrize("count", [2, 3, 5])
def test_kmeans_finds_separate_directions(count):
    points, truth = blobs(count, 17)
    centres, labels = kmeans(points, count)
    assert centres.shape == (count, 13)
    assert len({(int(a), int(b)) for a, b in zip(labels, truth, strict=True)}) == count
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(count))
    assert kmeans(points[:2], 5)[0].shape == (2, 13)


def test_best_of_several_runs_is_no_worse_than_any():
    points, _ = blobs(7, 5, noise=0.3)
    best = (points @ best_kmeans(points, 7).T).amax(1).sum()
    for seed in range(10):
        assert best >= (points @ kmeans(points, 7, seed=seed)[0].T).amax(1).sum() - 1e-5


def test_silhouette_is_the_definition_written_out():
    points, labels = blobs(3, 5, noise=0.4)
    distances = 1 - points @ points.T
    values = []
    for i, own in enumerate(labels.tolist()):
        same = [j for j in range(15) if labels[j] == own and j != i]
        a = float(distances[i, same].mean())
        b = min(float(distances[i, labels == other].mean()) for other in range(3) if other != own)
        values.append((b - a) / max(a, b))
    assert silhouette(points, labels) == pytest.approx(sum(values) / 15, abs=1e-5)
    assert silhouette(points[:3], torch.tensor([0, 0, 1])) == pytest.approx(
        silhouette(points[:3], torch.tensor([4, 4, 2]))
    )
    assert silhouette(points, torch.zeros(15, dtype=torch.long)) == 0


def test_a_point_alone_counts_zero():
    points, _ = blobs(2, 1, noise=0.0)
    assert silhouette(points, torch.tensor([0, 1])) == 0


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_silhouette_chooses_the_number_of_clusters(count):
    points, truth = blobs(count, 6, noise=0.05)
    found = separate_clusters(points, 5)
    assert len(found.unique()) == count
    assert {(int(a), int(b)) for a, b in zip(found, truth, strict=True)} == {
        (int(found[6 * i]), i) for i in range(count)
    }


def test_no_more_clusters_than_allowed_and_none_of_two_points():
    points, _ = blobs(4, 6, noise=0.05)
    assert len(separate_clusters(points, 2).unique()) <= 2
    assert separate_clusters(points[:2], 5).tolist() == [0, 0]
