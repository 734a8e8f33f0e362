import json

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from talk2dino.errors import DataError, InputError, ShapeError
from talk2dino.evaluation.metrics import NONE, ConfusionMatrix

NAMES = ("a", "b", "c", "d", "e")


def random_pair(seed: int, classes: int, absent: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    allowed = [i for i in range(classes) if i not in absent]
    truth = rng.choice([*allowed, 255], size=(13, 17))
    prediction = np.where(rng.random((13, 17)) < 0.5, truth, rng.choice(allowed, size=(13, 17)))
    prediction[prediction == 255] = allowed[0]
    return prediction, truth


@pytest.mark.parametrize("absent", [(), (1,), (0, 4)])
def test_equals_torchmetrics(absent, monkeypatch):
    matrix = ConfusionMatrix(NAMES)
    oracle = MulticlassJaccardIndex(5, average="macro", ignore_index=255, validate_args=False)
    for seed in range(7):
        prediction, truth = random_pair(seed, 5, absent)
        matrix.update(prediction, truth)
        oracle.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    assert matrix.counts[:, :-1].tolist() == oracle.confmat.tolist()
    assert not matrix.counts[:, -1].any()
    # torchmetrics' own compute, which calls .float() on its counts, in double: 1e-8 is beyond float32
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    expected = oracle.compute()
    assert expected.dtype == torch.float64
    assert matrix.metrics().miou == pytest.approx(expected.item(), abs=1e-8)


def test_by_hand_with_absent_classes():
    truth = np.array([[0, 0, 1, 1, 255], [0, 2, 1, 1, 255]])
    prediction = np.array([[0, 1, 1, 1, 4], [0, 2, 1, 0, 4]])
    matrix = ConfusionMatrix(NAMES)
    matrix.update(prediction, truth)
    figures = matrix.metrics()
    # a: 2 right, 3 true, 3 predicted -> 2/4; b: 3 right, 4 true, 4 predicted -> 3/5; c: 1/1; d and e: nowhere
    np.testing.assert_allclose(figures.iou, [0.5, 0.6, 1.0, np.nan, np.nan], atol=1e-12)
    np.testing.assert_allclose(figures.accuracy, [2 / 3, 3 / 4, 1.0, np.nan, np.nan], atol=1e-12)
    assert figures.miou == pytest.approx(0.7, abs=1e-8)
    assert figures.mean_accuracy == pytest.approx((2 / 3 + 3 / 4 + 1) / 3, abs=1e-8)
    assert figures.overall_accuracy == pytest.approx(6 / 8, abs=1e-8)
    assert figures.miou_of([0, 2, 3]) == pytest.approx(0.75, abs=1e-8)


def test_class_that_is_only_predicted_counts_as_zero():
    matrix = ConfusionMatrix(("a", "b", "c"))
    matrix.update(np.array([[0, 2]]), np.array([[0, 0]]))
    assert matrix.metrics().miou == pytest.approx(0.25)  # a 1/2, c 0/1, b absent
    assert matrix.metrics().mean_accuracy == pytest.approx(0.5)  # only a is in the truth


def test_parts_merge_to_the_whole():
    whole, first, second = (ConfusionMatrix(NAMES) for _ in range(3))
    for seed in range(6):
        pair = random_pair(seed, 5)
        whole.update(*pair)
        (first if seed % 2 else second).update(*pair)
    assert (first.merge(second).counts == whole.counts).all()
    assert first.counts.sum() < whole.counts.sum()
    with pytest.raises(InputError, match="different class lists or ignored values"):
        first.merge(ConfusionMatrix(("x",) * 5))


def test_none_is_a_miss_and_nobodys_false_alarm():
    matrix = ConfusionMatrix(("a", "b"))
    matrix.update(np.array([[0, NONE, NONE, 1]]), np.array([[0, 0, 255, 1]]))
    np.testing.assert_allclose(matrix.metrics().iou, [0.5, 1.0])
    assert matrix.metrics().overall_accuracy == pytest.approx(2 / 3)


def test_all_ignored_image_counts_nothing():
    matrix = ConfusionMatrix(NAMES)
    matrix.update(np.zeros((3, 5), int), np.full((3, 5), 255))
    assert matrix.counts.sum() == 0
    assert np.isnan(matrix.metrics().miou)
    assert json.dumps(matrix.metrics().as_dict(), allow_nan=False)


def test_values_outside_the_class_list_are_named():
    matrix = ConfusionMatrix(NAMES)
    with pytest.raises(DataError, match=r"label values .* 0\.\.4.* found 7, 9"):
        matrix.update(np.zeros((1, 3), int), np.array([[7, 9, 255]]))
    with pytest.raises(DataError, match=r"predicted values .* found -2, 5"):
        matrix.update(np.array([[5, -2]]), np.array([[0, 0]]))
    assert matrix.counts.sum() == 0


def test_sizes_must_agree():
    with pytest.raises(ShapeError, match=r"\(3, 5\).*\(5, 3\)"):
        ConfusionMatrix(NAMES).update(np.zeros((3, 5), int), np.zeros((5, 3), int))


def test_another_value_can_be_ignored():
    matrix = ConfusionMatrix(("a", "b"), ignore_index=7)
    matrix.update(np.array([[0, 1, 1]]), np.array([[0, 0, 7]]))
    assert matrix.counts.tolist() == [[1, 1, 0], [0, 0, 0]]
    with pytest.raises(DataError, match=r"besides 7, which is ignored\) must lie in 0\.\.1, the class list; found 255"):
        matrix.update(np.array([[0]]), np.array([[255]]))
    assert matrix.merge(matrix).ignore_index == 7
    assert matrix.merge(matrix).counts[0, 0] == 2
    with pytest.raises(InputError, match="different class lists or ignored values"):
        matrix.merge(ConfusionMatrix(("a", "b")))
