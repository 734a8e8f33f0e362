"""The vision model: what is cut out of the transformer's outputs. Its arithmetic is tested in test_vit.py."""

from __future__ import annotations

import pytest
import torch

from talk2dino.errors import ShapeError
from talk2dino.models import vit
from talk2dino.models.vision import VisionModel
from talk2dino.models.vit import VisionTransformer, ViTConfig, randomise

CONFIGS = {
    "dinov2": vit.dinov2(48, 3, 3, 192, grid=3),
    "dinov2-registers": vit.dinov2_registers(48, 3, 3, 192, grid=3, registers=2),
    "dinov3": vit.dinov3(48, 3, 3, 96),
}


def vision_model(config: ViTConfig) -> VisionModel:
    torch.manual_seed(3)
    backbone = VisionTransformer(config)
    randomise(backbone, std=0.2)
    return VisionModel(backbone)


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_prefix_tokens_are_left_out(kind):
    vision = vision_model(CONFIGS[kind])
    p, prefix = vision.patch_size, 1 + CONFIGS[kind].registers
    pixels = torch.randn(2, 3, 3 * p, 5 * p)
    tokens, row = vision.backbone(pixels)
    out = vision(pixels)
    assert out.patches.shape == (2, 3, 5, 48)
    assert out.attention.shape == (2, 3, 3, 5)
    assert torch.equal(out.patches.flatten(1, 2), tokens[:, prefix:])
    assert torch.equal(out.attention.flatten(2), row[:, :, prefix:])
    assert torch.equal(out.cls, tokens[:, 0])
    assert (vision.dim, vision.num_heads) == (48, 3)


def test_rotary_matters():
    vision = vision_model(CONFIGS["dinov3"])
    pixels = torch.randn(1, 3, 48, 80)
    before = vision(pixels).attention
    vision.rotary_attention = True
    assert (vision(pixels).attention - before).abs().max() > 1e-3


def test_pixels_take_the_models_dtype():
    vision = vision_model(CONFIGS["dinov2"]).to(torch.bfloat16)
    out = vision(torch.randn(1, 3, 28, 42))
    assert out.patches.dtype == out.attention.dtype == out.cls.dtype == torch.bfloat16


def test_errors():
    vision = vision_model(CONFIGS["dinov2"])
    for shape in ((1, 3, 15, 28), (1, 3, 28, 27), (3, 28, 28), (1, 1, 28, 28), (0, 3, 28, 28)):
        with pytest.raises(ShapeError, match="multiples of 14"):
            vision(torch.zeros(shape))
