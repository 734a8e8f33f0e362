import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import blobs

from talk2dino.errors import InputError
from talk2dino.methods.dino_clusters import (
    DinoClusters,
    laplacian_spectrum,
    number_of_segments,
)


def test_laplacian_of_separate_groups_has_a_zero_eigenvalue_each():
    points, _ = blobs(4, 11, noise=0.0)
    values, vectors = laplacian_spectrum(points, 7, 4.0)
    torch.testing.assert_close(values[:4], torch.zeros(4, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(values[4:], torch.ones(3, dtype=torch.float64), atol=1e-9, rtol=0)
    assert vectors.shape == (44, 7)


def test_eigengap_rule():
    assert number_of_segments(torch.tensor([0.0, 0.01, 0.02, 0.5, 0.55, 0.6])) == 3
    assert number_of_segments(torch.tensor([0.0, 0.1, 0.9, 0.95, 0.97])) == 2
    assert number_of_segments(torch.tensor([0.0, 0.9, 0.95, 0.97, 0.99])) == 2  # never one segment
    for count in (2, 3, 5):
        points, _ = blobs(count, 19)
        assert number_of_segments(laplacian_spectrum(points, 9, 8.0)[0]) == count


@pytest.mark.parametrize("algorithm", ["kmeans", "spectral"])
def test_clusters_of_a_grid_of_features(micro, algorithm):
    grid = torch.zeros(11, 13, dtype=torch.long)
    grid[:, 6:] = 1
    grid[7:] = 2
    features = F.normalize(torch.eye(3, 192), dim=1)[grid]
    centres, maps = DinoClusters(micro.towers, algorithm=algorithm).cluster(features)
    assert centres.shape == (3, 192)  # the rule found three
    labels = maps.argmax(0)
    assert len({(int(a), int(b)) for a, b in zip(labels.reshape(-1), grid.reshape(-1), strict=True)}) == 3
    noisy = features + 0.03 * torch.randn(features.shape, generator=torch.Generator().manual_seed(2))
    assert DinoClusters(micro.towers, algorithm=algorithm, segments=4).cluster(noisy)[1].shape == (4, 11, 13)


def test_a_large_grid_is_averaged_down_for_the_affinities(micro):
    grid = torch.zeros(61, 67, dtype=torch.long)
    grid[:, 31:] = 1
    _, maps = DinoClusters(micro.towers).cluster(F.normalize(torch.eye(2, 192), dim=1)[grid])
    assert maps.shape == (2, 61, 67)
    assert len({(int(a), int(b)) for a, b in zip(maps.argmax(0).reshape(-1), grid.reshape(-1), strict=True)}) == 2


def test_segment_of_an_image(micro, picture):
    segmenter = micro.with_method("dino-clusters", segments=3)
    result = segmenter.segment(picture, ["words", "are", "not used"])
    assert result.labels.shape == (47, 71)
    assert result.names == ("segment 1", "segment 2", "segment 3")
    assert segmenter.method.facts.matched
    refined = segmenter.segment(picture, [], refine=True)
    assert (refined.labels != result.labels).any()


def test_fitted_clusters_are_the_same_thing_in_every_image(micro):
    from talk2dino.evaluation.datasets import world_samples

    loaded = [sample.load() for sample in world_samples(range(900_000, 900_012))]
    segmenter = micro.with_method("dino-clusters")
    vocabulary = segmenter.method.fit((segmenter.encode_image(image) for image, _ in loaded), 16)
    assert vocabulary.embeddings.shape == (16, 192)
    results = segmenter.segment_batch([image for image, _ in loaded], vocabulary)
    assert all(result.names == tuple(f"cluster {i}" for i in range(1, 17)) for result in results)
    both = np.concatenate(
        [np.stack([r.labels, truth]).reshape(2, -1) for r, (_, truth) in zip(results, loaded, strict=True)], 1
    )
    counts = np.zeros((16, 16))
    np.add.at(counts, tuple(both), 1)
    assert counts.max(1).sum() / counts.sum() > 0.7  # most pixels of a cluster are of one class, over all pictures


def test_refusals(micro, picture):
    for options, message in (
        ({"algorithm": "ward"}, "kmeans, spectral"),
        ({"segments": 0}, "at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            micro.with_method("dino-clusters", **options)
    clusters = micro.with_method("dino-clusters")
    for call, message in (
        ({"mode": "slide"}, "no slide mode"),
        ({"background": 0.2}, "segments without classes"),
        ({"clean": True}, "no background cleaning"),
        ({"negative": ["sky"]}, "negative prompts have no effect"),
    ):
        with pytest.raises(InputError, match=message):
            clusters.segment(picture, [], **call)
