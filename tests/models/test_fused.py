"""The fused bfloat16 model: as near to float32 as the plain bfloat16 one, for every kind of block."""

from __future__ import annotations

import pytest
import torch

from talk2dino.models import fused, vit
from talk2dino.models.fused import FusedLinear, FusedVision, computes_transposed, fuse
from talk2dino.models.vision import VisionModel
from talk2dino.models.vit import VisionTransformer, randomise

CONFIGS = {
    "dinov2": vit.dinov2(96, 3, 3, 384, grid=3),
    "dinov2-registers": vit.dinov2_registers(96, 3, 3, 384, grid=3, registers=2),
    "dinov2-registers gated": vit.dinov2_registers(96, 3, 3, 256, grid=3, registers=2, activation="swiglu"),
    "dinov3": vit.dinov3(96, 3, 3, 160),
    "dinov3 gated": vit.dinov3(96, 3, 3, 160, registers=0, activation="swiglu"),
}

pytestmark = pytest.mark.skipif(bool(fused.why_not()), reason=f"no fused layers: {fused.why_not()}")


def models(kind: str) -> tuple[VisionModel, VisionModel]:
    """The same random weights in float32 and in bfloat16."""
    pair = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(5)
        backbone = VisionTransformer(CONFIGS[kind])
        randomise(backbone, std=0.1)
        for name, parameter in backbone.named_parameters():
            if "gamma" in name:
                torch.nn.init.normal_(parameter, std=0.7)
        # float32 has the rounded weights too, so that only the arithmetic differs
        pair.append(VisionModel(backbone.to(torch.bfloat16).to(dtype)))
    return pair[0], pair[1]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kind", list(CONFIGS))
def test_no_farther_from_float32_than_plain_bfloat16(kind, transposed, monkeypatch):
    monkeypatch.setattr(fused, "computes_transposed", lambda *_: transposed)
    exact, plain = models(kind)
    fast = fuse(plain)
    assert fast is not None
    pixels = torch.randn(3, 3, 4 * plain.patch_size, 5 * plain.patch_size)
    with torch.inference_mode():
        expected, rounded, result = exact(pixels), plain(pixels), fast(pixels)
    for name in ("patches", "attention", "cls"):
        truth = getattr(expected, name)
        off = (getattr(result, name).float() - truth).square().mean().sqrt() / truth.square().mean().sqrt()
        usual = (getattr(rounded, name).float() - truth).square().mean().sqrt() / truth.square().mean().sqrt()
        assert off < 1.3 * usual, name
        assert usual < 0.05


def test_the_form_of_a_layer_follows_from_its_sizes(monkeypatch):
    """One image of 448 x 448: narrow layers transposed, q, k, v in one product and batches of four not."""
    assert computes_transposed(1029, 768, 768)
    assert computes_transposed(1029, 768, 3072)
    assert not computes_transposed(1029, 2304, 768)
    assert not computes_transposed(4116, 768, 3072)
    forms = []
    monkeypatch.setattr(fused, "computes_transposed", lambda *sizes: forms.append(sizes) or False)
    fast = FusedVision(models("dinov2-registers")[1])
    fast(torch.randn(2, 3, 28, 42))
    assert forms[:3] == [(18, 288, 96), (18, 96, 96), (18, 96, 384)]  # 2 x (1 + 2 + 6) tokens; fc1 has a GELU


def test_a_layer_keeps_only_the_forms_that_it_used():
    layer = FusedLinear(torch.nn.Linear(64, 64, dtype=torch.bfloat16))
    with torch.inference_mode():
        transposed = layer(torch.ones(1, 300, 64).bfloat16())
        assert layer.packed is None
        packed = layer(torch.ones(1, 20, 64).bfloat16())
    assert layer.packed is not None
    torch.testing.assert_close(transposed[:, :20], packed, atol=0.02, rtol=0.02)


def test_pieces_equal_the_whole(monkeypatch):
    plain = models("dinov2-registers")[1]
    fast = FusedVision(plain)
    pixels = torch.randn(5, 3, 28, 42)
    whole = fast(pixels)
    calls = []
    forward = fast.vision.forward
    monkeypatch.setattr(fast.vision, "forward", lambda piece: calls.append(len(piece)) or forward(piece))
    monkeypatch.setattr(fused, "PIECE_TOKENS", 13)
    in_pieces = fast(pixels)
    assert calls == [2, 2, 1]
    for name in ("patches", "attention", "cls"):
        one, other = getattr(whole, name), getattr(in_pieces, name)
        assert one.shape == other.shape
        assert (one.float() - other.float()).abs().max() < 0.05 * one.float().abs().max()


def test_the_model_itself_is_left_as_it_is():
    plain = models("dinov2-registers")[1]
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    fast = FusedVision(plain)
    fast(torch.randn(1, 3, 28, 42))
    assert plain.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    assert fast.vision.backbone.cls_token is plain.backbone.cls_token


def test_only_where_it_helps():
    exact, plain = models("dinov2")
    assert fuse(exact) is None
    assert fuse(plain.to(torch.float16)) is None


def test_a_torch_without_the_operators(monkeypatch):
    plain = models("dinov2")[1]
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *_: torch.zeros(3, 64), raising=False)
    assert fuse(plain) is None
