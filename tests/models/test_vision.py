"""Vision models as tiny random twins of transformers' eager attention, 1e-5."""

from __future__ import annotations

import pytest
import torch
from transformers.models.dinov2.modeling_dinov2 import Dinov2Model

from talk2dino.errors import InputError, ShapeError
from talk2dino.models.vision import VisionModel, build_backbone

COMMON = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3}
SIZES = {
    "dinov2": {**COMMON, "image_size": 42, "patch_size": 14},
    "dinov2-registers": {**COMMON, "image_size": 42, "patch_size": 14, "num_register_tokens": 2},
    "dinov3": {**COMMON, "image_size": 48, "patch_size": 16, "num_register_tokens": 4, "intermediate_size": 96},
}


def twin(family: str):
    """The same random weights twice: ours, and the transformers class with eager attention."""
    torch.manual_seed(3)
    ours = build_backbone(family, **SIZES[family])
    for parameter in ours.parameters():  # zero-initialised tokens would hide mistakes
        torch.nn.init.normal_(parameter, std=0.2)
    theirs = build_backbone(family, **SIZES[family], attn_implementation="eager")
    theirs.load_state_dict(ours.state_dict())
    return VisionModel(ours), theirs.eval()


@pytest.mark.parametrize("family", list(SIZES))
@pytest.mark.parametrize("rotary", [False, True])
def test_twin(family, rotary):
    vision, eager = twin(family)
    vision.rotary_attention = rotary
    p = vision.patch_size
    pixels = torch.randn(2, 3, 3 * p, 5 * p)
    out = vision(pixels)
    last = (eager.model if family == "dinov3" else eager.encoder).layer[-1]
    seen = {}
    last.attention.register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(x=args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        tokens = eager(pixel_values=pixels).last_hidden_state
        prefix = 1 + vision.registers
        q = last.attention.q_proj(seen["x"]).view(2, -1, 3, 16).transpose(1, 2)
        k = last.attention.k_proj(seen["x"]).view(2, -1, 3, 16).transpose(1, 2)
        if family == "dinov3" and rotary:
            from transformers.models.dinov3_vit.modeling_dinov3_vit import apply_rotary_pos_emb

            q, k = apply_rotary_pos_emb(q, k, *eager.rope_embeddings(pixels))
        logits = (q[:, :, :1] @ k.transpose(2, 3))[:, :, 0, prefix:] / 4
    assert out.patches.shape == (2, 3, 5, 48)
    assert torch.allclose(out.patches.flatten(1, 2), tokens[:, prefix:], atol=1e-5)
    assert torch.allclose(out.cls, tokens[:, 0], atol=1e-5)
    assert torch.allclose(out.attention.flatten(2), logits, atol=1e-5)


def test_rotary_matters():
    vision, _ = twin("dinov3")
    pixels = torch.randn(1, 3, 48, 80)
    before = vision(pixels).attention
    vision.rotary_attention = True
    assert (vision(pixels).attention - before).abs().max() > 1e-3


def test_plain_dinov2_gets_the_original_position_grid():
    """transformers' own class resizes the grid differently; ours replaces its embeddings."""
    torch.manual_seed(0)
    backbone = build_backbone("dinov2", **SIZES["dinov2"])
    plain = Dinov2Model(backbone.config)
    plain.load_state_dict(backbone.state_dict())
    theirs = plain.embeddings.interpolate_pos_encoding(torch.zeros(1, 36, 48), 70, 98)
    ours = VisionModel(plain).backbone.embeddings.interpolate_pos_encoding(torch.zeros(1, 36, 48), 70, 98)
    assert ours.shape == theirs.shape == (1, 36, 48)
    assert (ours - theirs).abs().max() > 1e-4


def test_errors():
    vision, _ = twin("dinov2")
    with pytest.raises(ShapeError, match="multiples of 14"):
        vision(torch.zeros(1, 3, 15, 28))
    with pytest.raises(InputError, match="Linear"):
        VisionModel(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="dinov9"):
        build_backbone("dinov9")
