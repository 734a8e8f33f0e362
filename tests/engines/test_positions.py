"""Position grids resized by matrices, against torch's own interpolation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from talk2dino.engines.positions import antialiased_matrix, offset_matrix, resize_positions
from talk2dino.models.vision import build_backbone

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


@pytest.mark.parametrize(("family", "matrix"), [("dinov2", offset_matrix), ("dinov2-registers", antialiased_matrix)])
@pytest.mark.parametrize("size", [(5, 5), (4, 9), (8, 8)])
def test_position_embeddings_are_the_models_own(family, matrix, size):
    from talk2dino.models.vision import VisionModel

    backbone = build_backbone(
        family, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, patch_size=14, image_size=70
    )
    torch.nn.init.normal_(backbone.embeddings.position_embeddings)
    embeddings = VisionModel(backbone).backbone.embeddings
    tokens = torch.zeros(1, 1 + size[0] * size[1], 16)
    expected = embeddings.interpolate_pos_encoding(tokens, 14 * size[0], 14 * size[1])
    ours = resize_positions(matrix, embeddings.position_embeddings, *size)
    assert (ours - expected).abs().max() < 1e-4  # float32 places in either
