"""Resizing: bit-equal to OpenCV in slide mode; windows, canvases and the limits of whole mode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from talk2dino.errors import ImageError, InputError
from talk2dino.models import preprocess
from talk2dino.models.preprocess import (
    check_mode,
    fit_window,
    fits_whole,
    grid_size,
    resize_for_slide,
    slide_size,
)

#: Inputs "HxW" and what cv2.resize 4.14 makes of them, "HxW-hxw".
OPENCV = np.load(Path(__file__).parents[1] / "data" / "opencv_resize.npz")


@pytest.mark.parametrize("case", [name for name in OPENCV.files if "-" in name])
def test_slide_resize_is_opencvs(case, protocol_resize):
    image, expected = OPENCV[case.split("-")[0]], OPENCV[case]
    found = resize_for_slide(image, expected.shape[:2])
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), expected)
    np.testing.assert_array_equal(protocol_resize(image, expected.shape[:2]), expected)  # the oracle of other tests


@pytest.mark.parametrize(
    ("size", "target"), [((23, 31), (23, 47)), ((23, 31), (7, 31)), ((46, 62), (23, 31)), ((2, 3), (1, 1))]
)
def test_slide_resize_written_out(size, target, protocol_resize):
    image = np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        resize_for_slide(image, target).permute(1, 2, 0).numpy(), protocol_resize(image, target)
    )


def test_slide_resize_of_the_same_size_is_the_image():
    image = np.random.default_rng(3).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_for_slide(image, (13, 17)).permute(1, 2, 0).numpy(), image)


def test_small_windows_are_enlarged():
    image = np.random.default_rng(5).integers(0, 256, (19, 28, 3), dtype=np.uint8)
    window = resize_for_slide(image, (19, 28))
    fitted = fit_window(window, (28, 31))
    expected = F.interpolate(window[None], (28, 31), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(fitted, expected, atol=2e-3, rtol=0)
    assert fit_window(window, (19, 28)) is window


def test_windows_larger_than_the_input_are_antialiased():
    """A window is larger than the model's input when the model's size is not a multiple of its patch."""
    stripes = torch.zeros(3, 42, 42)
    stripes[:, :, ::2] = 255
    assert (
        F.interpolate(stripes[None], (14, 14), mode="bilinear").sub(127.5).abs().min() > 127
    )  # stripes survive: aliased
    assert fit_window(stripes, (14, 14))[:, :, 1:-1].sub(127.5).abs().max() < 20  # nearly grey


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (448, 597)),
        ((640, 480), (597, 448)),
        ((1024, 2048), (448, 896)),
        ((10, 100_000), (1, 2048)),
        ((100_000, 10), (2048, 1)),
        ((120, 2000), (123, 2048)),
    ],
)
def test_slide_size_limits_the_long_side(size, expected):
    assert slide_size(*size, 448) == expected


@pytest.mark.parametrize(
    ("size", "fits"), [((448, 3584), True), ((448, 3599), False), ((3599, 448), False), ((120, 2000), False)]
)
def test_whole_mode_has_a_longest_side(size, fits):
    assert fits_whole(*size, 448, 14) is fits
    if fits:
        assert grid_size(*size, 448, 14) == size
    else:
        with pytest.raises(ImageError, match="too elongated for the mode 'whole'"):
            grid_size(*size, 448, 14)


def test_modes():
    assert [check_mode(mode) for mode in preprocess.MODES] == ["whole", "slide", "square"]
    with pytest.raises(InputError, match="unknown mode 'tile'; accepted: whole, slide, square"):
        check_mode("tile")
