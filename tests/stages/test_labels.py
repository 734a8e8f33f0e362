"""The compiled labels against their plain version and against torch."""

import tracemalloc

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from talk2dino.errors import ShapeError
from talk2dino.stages.kernels import cpu_kernel
from talk2dino.stages.upsample import Resize, label_pixels, label_pixels_plain

needs_numba = pytest.mark.skipif(cpu_kernel("labels", "label_cpu") is None, reason="numba is not installed")
CHAINS = (
    [],
    [Resize(56, 84, True)],
    [Resize(56, 84, True), Resize(61, 90, False)],
    [Resize(28, 40, True), Resize(11, 13, False)],  # larger, then smaller
    [Resize(1, 1, False)],
    [Resize(4, 50, True), Resize(30, 50, False)],  # one axis at a time
)


@needs_numba
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("classes", [1, 15, 16, 33])
@pytest.mark.parametrize("background", [None, 0.2])
@pytest.mark.parametrize("negative", [0, 1])
def test_kernel_equals_plain_version(chain, classes, background, negative):
    torch.manual_seed(classes)
    maps = torch.randn(classes, 4, 6)
    thresholds = None if background is None else torch.full((classes,), background)
    fast = cpu_kernel("labels", "label_cpu")(maps, chain, thresholds, negative)
    plain = label_pixels_plain(maps, chain, thresholds, negative)
    assert fast.dtype == plain.dtype == torch.int32
    assert (fast != plain).float().mean() <= 1e-3  # rounding decides near ties
    if not chain:
        assert torch.equal(fast, plain)


@needs_numba
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_large_even_areas_are_as_exact_as_edges(spread):
    """Where one class is ahead all around, its pixels are not mixed; thresholds of each class its own."""
    torch.manual_seed(0)
    blobs = torch.nn.functional.interpolate(torch.rand(1, 9, 4, 5), (24, 30), mode="bilinear")[0]
    chain = [Resize(96, 120, True), Resize(101, 97, False)]
    for thresholds in (None, 0.6 + spread * torch.rand(9)):
        fast = cpu_kernel("labels", "label_cpu")(blobs, chain, thresholds, 0)
        plain = label_pixels_plain(blobs, chain, thresholds)
        assert (fast != plain).float().mean() <= 1e-3
        assert len(plain.unique()) > 5


@needs_numba
@pytest.mark.parametrize("length", [1, 2, 7, 32])
def test_taps_are_what_torch_resizes_with(length):
    """Against the dense matrix: what the chain makes of the unit vectors."""
    from talk2dino.stages.kernels.labels import axis_taps

    for chain in (
        [],
        [(57, True)],
        [(57, True), (91, False)],
        [(5, False)],
        [(40, True), (13, False), (200, True)],
        [(1, True)],
    ):
        dense = torch.eye(length, dtype=torch.float64)
        for target, align in chain:
            dense = torch.nn.functional.interpolate(dense.T[None], target, mode="linear", align_corners=align)[0].T
        places, shares = axis_taps(length, tuple(chain))
        ours = np.zeros((len(places), length))
        np.add.at(ours, (np.arange(len(places))[:, None], places), shares)
        assert np.abs(ours - dense.numpy()).max() < 1e-7
        assert places.shape[1] <= max(1, int((dense > 1e-12).sum(1).max()) + 1)


@needs_numba
def test_taps_take_memory_by_the_length_of_the_result():
    from talk2dino.stages.kernels.labels import axis_taps

    tracemalloc.start()
    axis_taps(3000, ((6001, True), (9000, False)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 400 * 9000  # a dense matrix would take 8 x 3000 x 9000


LARGE = (torch.randn(30, 20, 20), [Resize(560, 560, True), Resize(700, 700, False)])  # 59 MB as classes x pixels


class Largest(TorchDispatchMode):
    """Most numbers in one tensor that an operation gave."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return out


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_the_plain_version_never_holds_classes_x_pixels(threshold):
    thresholds = None if threshold is None else torch.full((30,), threshold)
    with Largest() as largest:
        label_pixels_plain(*LARGE, thresholds)
    assert 700 * 700 <= largest.numbers < 5_000_000 < 30 * 700 * 700


@needs_numba
def test_the_kernel_never_holds_classes_x_pixels():
    tracemalloc.start()
    label_pixels(*LARGE)
    _, peak = tracemalloc.get_traced_memory()  # numpy's arrays; torch allocates nothing large here
    tracemalloc.stop()
    assert peak < 10e6


@needs_numba
@pytest.mark.parametrize("background", [None, 0.0])
def test_scores_that_are_no_numbers_give_the_first_class_or_background(background):
    maps = torch.full((3, 2, 2), float("nan"))
    thresholds = None if background is None else torch.full((3,), background)
    assert cpu_kernel("labels", "label_cpu")(maps, [Resize(5, 5, True)], thresholds, 0).eq(0).all()


@needs_numba
def test_a_tie_goes_to_the_first_class_and_to_the_background():
    kernel = cpu_kernel("labels", "label_cpu")
    maps = torch.full((3, 2, 2), 0.5)
    assert kernel(maps, [], None, 0).eq(0).all()
    assert kernel(maps, [], torch.full((3,), 0.5), 0).eq(0).all()
    assert kernel(maps, [], torch.tensor([0.5, 0.4, 0.4]), 0).eq(2).all()


@needs_numba
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_rows_are_shared_out_to_any_number_of_threads(threads):
    before = torch.get_num_threads()
    maps, chain = torch.randn(7, 5, 6), [Resize(23, 31, False)]
    try:
        torch.set_num_threads(threads)
        assert torch.equal(label_pixels(maps, chain), label_pixels_plain(maps, chain))
    finally:
        torch.set_num_threads(before)


def test_maps_with_gradients_and_of_other_dtypes_are_taken():
    maps = torch.randn(3, 4, 5)
    expected = maps.argmax(0).int()
    assert torch.equal(label_pixels(maps.clone().requires_grad_(), []), expected)
    assert torch.equal(label_pixels(maps.double(), []), expected)
    with pytest.raises(ShapeError, match=r"\(N, h, w\)"):
        label_pixels(maps[0], [])


def test_without_numba_the_plain_version_runs(monkeypatch):
    monkeypatch.setattr("talk2dino.stages.upsample.cpu_kernel", lambda module, name: None)
    maps = torch.randn(3, 4, 5)
    assert torch.equal(label_pixels(maps, []), maps.argmax(0).int())


def test_a_full_disk_falls_back_to_the_plain_version(monkeypatch, caplog):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("talk2dino.stages.upsample.cpu_kernel", lambda module, name: no_space)
    maps, twice = torch.randn(3, 4, 5), [Resize(8, 10, True)]
    assert torch.equal(label_pixels(maps, twice), label_pixels_plain(maps, twice))
    assert "plain version" in caplog.text


def test_ties_go_to_the_first_class_and_to_the_background_in_both_versions():
    """Equal scores: the first class wins; a score equal to its threshold is background."""
    maps = torch.tensor([0.2, 0.7, 0.7, 0.5])[:, None, None].expand(4, 3, 5).contiguous()
    resizes = [Resize(6, 10, False)]
    for label in (label_pixels, label_pixels_plain):
        assert (label(maps, resizes) == 1).all()
        assert (label(maps, resizes, torch.tensor([0.7, 0.7, 0.6, 0.9])) == 3).all()
        assert (label(maps, resizes, torch.full((4,), 0.7)) == 0).all()
