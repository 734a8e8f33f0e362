"""Repositories in transformers' layout, as transformers itself writes them: config.json and weights to the same outputs."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from talk2dino.errors import CheckpointError, ModelNotFoundError
from talk2dino.models.hub_towers import clip_image_from_hub, clip_text_from_hub, vision_from_hub
from talk2dino.models.vit import randomise

SHAPE = {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "attn_implementation": "eager"}
DINOV3 = {**SHAPE, "intermediate_size": 52, "num_register_tokens": 3, "rope_theta": 50.0}
MODELS = {
    "dinov2": lambda: Dinov2Model(Dinov2Config(**SHAPE, mlp_ratio=3, patch_size=7, image_size=35)),
    "dinov2 giant": lambda: Dinov2Model(Dinov2Config(**SHAPE, patch_size=7, image_size=35, use_swiglu_ffn=True)),
    "dinov2_with_registers": lambda: Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(**SHAPE, patch_size=7, image_size=35, num_register_tokens=5, layer_norm_eps=1e-3)
    ),
    "dinov3_vit": lambda: DINOv3ViTModel(DINOv3ViTConfig(**DINOV3)),
    "dinov3_vit gated": lambda: DINOv3ViTModel(DINOv3ViTConfig(**DINOV3, use_gated_mlp=True, hidden_act="silu")),
    "dinov3_vit without biases": lambda: DINOv3ViTModel(DINOv3ViTConfig(**DINOV3, query_bias=False, value_bias=False)),
}


def save(model, folder, *, as_bin=False):
    """A repository in ``folder``, and its files by name as the hub's cache would give them."""
    torch.manual_seed(1)
    randomise(model, std=0.2)
    model.eval().save_pretrained(folder)
    if as_bin:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()

    def find(name):
        if not (folder / name).is_file():
            raise ModelNotFoundError(f"no file {name}")
        return folder / name

    return find


def change(find, **values):
    path = find("config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("as_bin", [False, True])
@pytest.mark.parametrize("kind", list(MODELS))
def test_dino(kind, as_bin, tmp_path):
    model = MODELS[kind]()
    tower = vision_from_hub("facebook/tiny", save(model, tmp_path, as_bin=as_bin))
    pixels = torch.randn(2, 3, *(2 * (5 * tower.config.patch_size,)))  # the position grid's own size
    with torch.no_grad():
        expected = model(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(tower(pixels)[0], expected, atol=1e-5, rtol=1e-5)


def test_clip(tmp_path):
    part = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 29}
    model = CLIPModel(
        CLIPConfig(
            text_config={**part, "vocab_size": 53, "eos_token_id": 52, "max_position_embeddings": 11},
            vision_config={**part, "hidden_act": "gelu", "patch_size": 6, "image_size": 30},
            projection_dim=13, attn_implementation="eager",
        )
    )  # fmt: skip
    find = save(model, tmp_path)
    image, text = clip_image_from_hub("openai/tiny", find), clip_text_from_hub("openai/tiny", find)
    pixels, tokens = torch.randn(2, 3, 30, 30), torch.randint(0, 52, (3, 11))
    tokens[:, 7] = 52
    with torch.no_grad():
        images = model.visual_projection(model.vision_model(pixels).pooler_output)
        texts = model.text_projection(model.text_model(input_ids=tokens).pooler_output)
    torch.testing.assert_close(image.embed_image(pixels), images, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(text(tokens, torch.full((3,), 7)), texts, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "vit"}, "facebook/tiny holds a model of type 'vit'; accepted: dinov2, dinov2_with_registers"),
        ({"hidden_size": "wide"}, "config.json of facebook/tiny is not supported: .*hidden_size"),
        ({"num_attention_heads": 5}, "hidden_size 36 is not a multiple of 5 heads"),
        ({"hidden_act": "relu"}, "hidden_act"),
        (
            {"num_hidden_layers": 1},
            r"facebook/tiny: the weights do not fit config.json: unexpected: encoder\.layer\.1\.",
        ),
        ({"num_hidden_layers": 3}, r"missing: encoder\.layer\.2\."),
        ({"image_size": 28}, r"position_embeddings \(1, 26, 36\) where \(1, 17, 36\) was expected; delete it"),
    ],
)
def test_configurations_that_do_not_fit(values, message, tmp_path):
    find = save(MODELS["dinov2"](), tmp_path)
    change(find, **values)
    with pytest.raises(CheckpointError, match=message):
        vision_from_hub("facebook/tiny", find)


def test_no_weights_at_all(tmp_path):
    find = save(MODELS["dinov2"](), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"model\.safetensors"):
        vision_from_hub("facebook/tiny", find)


def test_a_gated_dinov3_with_another_activation_is_refused(tmp_path):
    find = save(MODELS["dinov3_vit gated"](), tmp_path)
    change(find, hidden_act="gelu")
    with pytest.raises(CheckpointError, match="hidden_act must be silu with use_gated_mlp"):
        vision_from_hub("facebook/tiny", find)
