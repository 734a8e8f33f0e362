"""Forward passes: in batches, and in parts where memory asks for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from talk2dino import Segmenter
from talk2dino.engines.forward import InParts
from talk2dino.errors import Talk2DinoError
from talk2dino.models.vision import VisionOutput


def short_of_memory(fits: int, calls: list[int], error: Exception):
    """An engine whose memory holds ``fits`` images."""

    def run(pixels):
        calls.append(len(pixels))
        if len(pixels) > fits:
            raise error
        mean = pixels.mean((1, 2, 3))
        return VisionOutput(mean[:, None, None, None], mean[:, None, None, None], mean[:, None])

    return run


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_a_batch_that_does_not_fit_is_halved_with_one_warning(error, caplog):
    calls: list[int] = []
    run = InParts(short_of_memory(3, calls, error))
    pixels = torch.rand(11, 3, 4, 4)
    out = run(pixels)
    assert torch.equal(out.cls[:, 0], pixels.mean((1, 2, 3)))
    assert out.patches.shape == (11, 1, 1, 1)
    assert calls == [11, 6, 3, 3, 3, 2]
    run(pixels[:7])
    assert calls[6:] == [3, 3, 1]  # what fits is remembered
    assert caplog.text.count("does not fit") == 1


def test_an_image_that_does_not_fit_is_refused():
    run = InParts(short_of_memory(0, [], torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(Talk2DinoError, match=r"an image of 28 x 42 does not fit.*bfloat16.*slide"):
        run(torch.zeros(2, 3, 28, 42))
    with pytest.raises(RuntimeError, match="something else"):
        InParts(short_of_memory(0, [], RuntimeError("something else")))(torch.zeros(2, 3, 28, 42))


def test_a_segmenter_continues_with_smaller_batches():
    segmenter = Segmenter.from_pretrained("micro", device="cpu", dtype="float32")
    images = [np.full((60, 80, 3), shade, np.uint8) for shade in range(0, 250, 50)]
    expected = segmenter.segment_batch(images, ["sky", "ball"])

    def no_more_than_two(module, inputs):
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    segmenter.vision.register_forward_pre_hook(no_more_than_two)
    for one, other in zip(segmenter.segment_batch(images, ["sky", "ball"]), expected, strict=True):
        assert np.array_equal(one.labels, other.labels)


def test_windows_go_through_the_model_in_batches():
    segmenter = Segmenter.from_pretrained("micro", device="cpu", dtype="float32")
    calls: list[int] = []
    segmenter.vision.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    features = segmenter.encode_image(np.zeros((100, 460, 3), np.uint8), mode="slide")
    assert features.boxes is not None
    assert len(features.boxes) == 9
    assert calls == [8, 1]
