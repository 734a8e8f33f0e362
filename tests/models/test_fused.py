"""The fused bfloat16 model: as near to float32 as the plain bfloat16 one, for every kind of block."""

from __future__ import annotations

import pytest
import torch

from talk2dino.models import fused
from talk2dino.models.fused import FusedVision, fuse
from talk2dino.models.vision import VisionModel, build_backbone

COMMON = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3}
SIZES = {
    "dinov2": {**COMMON, "image_size": 42, "patch_size": 14},
    "dinov2-registers": {**COMMON, "image_size": 42, "patch_size": 14, "num_register_tokens": 2},
    "dinov2-registers gated": {**COMMON, "image_size": 42, "patch_size": 14, "use_swiglu_ffn": True},
    "dinov3": {**COMMON, "image_size": 48, "patch_size": 16, "num_register_tokens": 4, "intermediate_size": 160},
    "dinov3 gated": {**COMMON, "image_size": 48, "patch_size": 16, "intermediate_size": 160, "use_gated_mlp": True},
}

pytestmark = pytest.mark.skipif(bool(fused._cannot_pack()), reason=f"no packed layers: {fused._cannot_pack()}")


def models(kind: str) -> tuple[VisionModel, VisionModel]:
    """The same random weights in float32 and in bfloat16."""
    pair = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(5)
        backbone = build_backbone(kind.split()[0], **SIZES[kind])
        for name, parameter in backbone.named_parameters():
            torch.nn.init.normal_(parameter, std=0.7 if "lambda" in name else 0.1)
        # float32 too has the rounded weights, so that only the arithmetic differs
        pair.append(VisionModel(backbone.to(torch.bfloat16).to(dtype)))
    return pair[0], pair[1]


@pytest.mark.parametrize("kind", list(SIZES))
def test_no_farther_from_float32_than_plain_bfloat16(kind):
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
    assert plain.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    assert fast.vision.backbone.embeddings.cls_token is plain.backbone.embeddings.cls_token


def test_only_where_it_helps():
    exact, plain = models("dinov2")
    assert fuse(exact) is None
    assert fuse(plain.to(torch.float16)) is None


def test_a_torch_without_the_operators(monkeypatch):
    plain = models("dinov2")[1]
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *_: torch.zeros(3, 32), raising=False)
    assert fuse(plain) is None


@pytest.mark.parametrize("kind", ["dinov2", "dinov2-registers"])
def test_positions_are_resized_once_a_size(kind, monkeypatch):
    plain = models(kind)[1]
    embeddings = type(plain.backbone.embeddings)
    resized = []
    resize = embeddings.interpolate_pos_encoding
    monkeypatch.setattr(embeddings, "interpolate_pos_encoding", lambda *a: resized.append(a[2:]) or resize(*a))
    fast = FusedVision(plain)
    sizes = [(28, 42), (42, 28), (28, 42), (42, 28), (42, 42)]
    results = [fast(torch.ones(1, 3, *size)) for size in sizes]
    assert resized == [(28, 42), (42, 28), (42, 42)]
    for size, result in zip(sizes, results, strict=True):
        assert torch.equal(result.patches, FusedVision(plain)(torch.ones(1, 3, *size)).patches)
