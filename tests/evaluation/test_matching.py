import numpy as np
import pytest

from talk2dino.evaluation.matching import (
    assign,
    cluster_classes,
    final_metrics,
    final_records,
    match_segments,
    permuted,
)
from talk2dino.evaluation.metrics import ConfusionMatrix
from talk2dino.evaluation.options import EvaluationOptions
from talk2dino.evaluation.protocol import run_benchmark


def test_clusters_are_matched_once_over_the_whole_run():
    matrix = ConfusionMatrix(("a", "b", "c"))
    matrix.update(np.array([[1, 1, 1, 0, 0, 2]]), np.array([[0, 0, 2, 1, 1, 1]]))
    classes = cluster_classes(matrix)
    assert classes.tolist() == [1, 0, -1]  # cluster 2 shares pixels only with class 1, which is taken
    np.testing.assert_allclose(final_metrics(matrix, {"matched": "benchmark"}).iou, [2 / 3, 2 / 3, 0])
    assert permuted(matrix, classes).counts[:, -1].tolist() == [0, 1, 0]
    for matched in ("image", None):
        assert final_metrics(matrix, {"matched": matched}).miou == matrix.metrics().miou


@pytest.mark.parametrize("ignore", [255, 7])
def test_segments_of_one_image_are_matched_one_to_one(ignore):
    truth = np.array([[0, 0, 0, 1, 1, ignore, ignore], [0, 0, 0, 2, 2, ignore, ignore]])
    segments = np.array([[5, 5, 3, 3, 3, 0, 0], [5, 5, 3, 2, 2, 0, 0]])
    expected = np.array([[0, 0, 1, 1, 1, -1, -1], [0, 0, 1, 2, 2, -1, -1]])
    np.testing.assert_array_equal(match_segments(segments, truth, 3, ignore=ignore), expected)


def test_assignment_maximises_the_agreement():
    assert assign(np.array([[9, 8], [8, 1], [0, 0]])).tolist() == [1, 0, -1]  # 16, not 9 + 1


def test_segments_without_classes_in_both_ways(micro, tmp_path):
    accuracy = {}
    for matching in ("benchmark", "image"):
        options = EvaluationOptions(benchmark="world", method="dino-clusters", matching=matching, limit=12)
        outcome = run_benchmark(micro, options.benchmarks[0], options, folder=tmp_path / matching)
        assert outcome.config["matched"] == matching
        accuracy[matching] = outcome.metrics.overall_accuracy
        records = final_records(outcome.records, outcome.matrix, outcome.config)
        assert all(0 < record.miou <= 1 for record in records)
        assert len(outcome.predict.text) == (16 if matching == "benchmark" else 0)
    assert 0.5 < accuracy["benchmark"] <= accuracy["image"] + 0.1
    assert accuracy["image"] > 0.6


def test_fewer_segments_than_classes(micro):
    options = EvaluationOptions(benchmark="world", method="dino-clusters", method_options={"segments": 2}, limit=1)
    outcome = run_benchmark(micro, options.benchmarks[0], options)
    assert outcome.metrics.overall_accuracy > 0.3
