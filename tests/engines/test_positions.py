"""Position grids resized by matrices, against torch's own interpolation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from talk2dino.engines.positions import antialiased_matrix, make_dynamic, offset_matrix
from talk2dino.models import vit
from talk2dino.models.vit import VisionTransformer, randomise

SIZES = [(5, 7), (37, 3), (32, 32), (64, 48), (2, 2), (37, 37)]


@pytest.mark.parametrize("size", SIZES)
def test_antialiased_matrices_are_interpolate(size):
    grid = torch.randn(1, 3, 37, 37)
    expected = F.interpolate(grid, size, mode="bicubic", antialias=True, align_corners=False)
    rows, columns = antialiased_matrix(size[0], 37), antialiased_matrix(size[1], 37)
    assert (rows @ grid @ columns.T - expected).abs().max() < 1e-4  # float32 places in either


@pytest.mark.parametrize("size", SIZES)
def test_matrices_with_an_offset_are_interpolate(size):
    grid = torch.randn(1, 3, 37, 37)
    scale = tuple((n + 0.1) / 37 for n in size)
    expected = F.interpolate(grid, scale_factor=scale, mode="bicubic", antialias=False)
    rows, columns = offset_matrix(size[0], 37), offset_matrix(size[1], 37)
    assert expected.shape[2:] == size
    assert (rows @ grid @ columns.T - expected).abs().max() < 2e-4


@pytest.mark.parametrize("kind", [vit.dinov2, vit.dinov2_registers])
@pytest.mark.parametrize("size", [(5, 5), (4, 9), (8, 8)])
def test_position_embeddings_are_the_models_own(kind, size):
    backbone = VisionTransformer(kind(16, 1, 2, 64, grid=5))
    randomise(backbone, std=1)
    expected = backbone.positions(*size)
    make_dynamic(backbone)
    assert (backbone.positions(*size) - expected).abs().max() < 1e-4  # float32 places in either
