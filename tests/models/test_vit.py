"""Every tower as a tiny random twin of transformers' class with eager attention, read from its layout on the hub: 1e-5."""

from __future__ import annotations

import copy
import re
import subprocess
import sys

import pytest
import torch
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
from transformers.models.dinov3_vit.modeling_dinov3_vit import apply_rotary_pos_emb

from talk2dino.errors import CheckpointError
from talk2dino.models import keymaps, layouts, vit
from talk2dino.models.vit import TextTransformer, VisionTransformer, randomise

WIDTH, DEPTH, HEADS, GRID = 48, 3, 3, 5
COMMON = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "attn_implementation": "eager",
}
EAGER = {
    "dinov2": lambda: Dinov2Model(Dinov2Config(**COMMON, patch_size=14, image_size=14 * GRID)),
    "dinov2 giant": lambda: Dinov2Model(
        Dinov2Config(**COMMON, patch_size=14, image_size=14 * GRID, use_swiglu_ffn=True)
    ),
    "dinov2-registers": lambda: Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(**COMMON, patch_size=14, image_size=14 * GRID, num_register_tokens=2)
    ),
    "dinov3": lambda: DINOv3ViTModel(DINOv3ViTConfig(**COMMON, intermediate_size=80, num_register_tokens=4)),
    "dinov3 gated": lambda: DINOv3ViTModel(
        DINOv3ViTConfig(**COMMON, intermediate_size=80, num_register_tokens=4, use_gated_mlp=True, hidden_act="silu")
    ),
}
OURS = {
    "dinov2": (vit.dinov2(WIDTH, DEPTH, HEADS, 4 * WIDTH, grid=GRID), keymaps.HUB_DINOV2),
    "dinov2 giant": (vit.dinov2(WIDTH, DEPTH, HEADS, 128, grid=GRID, activation="swiglu"), keymaps.HUB_DINOV2),
    "dinov2-registers": (
        vit.dinov2_registers(WIDTH, DEPTH, HEADS, 4 * WIDTH, grid=GRID, registers=2),
        keymaps.HUB_DINOV2,
    ),
    "dinov3": (vit.dinov3(WIDTH, DEPTH, HEADS, 80, registers=4), keymaps.HUB_DINOV3),
    "dinov3 gated": (vit.dinov3(WIDTH, DEPTH, HEADS, 80, registers=4, activation="swiglu"), keymaps.HUB_DINOV3),
}
#: Names of transformers' classes, and of the files on the hub.
ON_THE_HUB = (
    ("attention.q_proj", "attention.attention.query"),
    ("attention.k_proj", "attention.attention.key"),
    ("attention.v_proj", "attention.attention.value"),
    ("attention.o_proj", "attention.output.dense"),
    ("mlp.down_proj", "mlp.weights_out"),
)


def hub_tensors(kind: str, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A model's weights as its repository on the hub has them."""
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    if kind.startswith("dinov3"):
        return {name.removeprefix("model."): value for name, value in tensors.items()}
    for ours, theirs in ON_THE_HUB:
        tensors = {name.replace(ours, theirs): value for name, value in tensors.items()}
    for name in [name for name in tensors if ".gate_proj." in name]:
        up = tensors.pop(name.replace("gate", "up"))
        tensors[name.replace("gate_proj", "weights_in")] = torch.cat([tensors.pop(name), up])
    return tensors


def twins(kind: str) -> tuple[VisionTransformer, torch.nn.Module]:
    torch.manual_seed(3)
    eager = EAGER[kind]().eval()
    randomise(eager, std=0.2)  # zero-initialised tokens would hide mistakes
    config, layout = OURS[kind]
    return layouts.build(VisionTransformer, config, hub_tensors(kind, eager), layout, kind), eager


@pytest.mark.parametrize("size", [(3, 7), (6, 4), (GRID, GRID)])
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("kind", list(EAGER))
def test_dino(kind, rotary, size):
    tower, eager = twins(kind)
    if "giant" in kind or kind == "dinov2":  # transformers resizes this grid in another way than the original
        eager.embeddings.interpolate_pos_encoding = lambda *_: tower.positions(*size)
    pixels = torch.randn(2, 3, *(tower.config.patch_size * n for n in size))
    tokens, row = tower(pixels, rotary_attention=rotary)
    last = (eager.model if "dinov3" in kind else eager.encoder).layer[-1].attention
    seen = {}
    last.register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(x=args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        expected = eager(pixel_values=pixels).last_hidden_state
        q, k = (part(seen["x"]).unflatten(2, (HEADS, -1)).transpose(1, 2) for part in (last.q_proj, last.k_proj))
        if "dinov3" in kind and rotary:
            q, k = apply_rotary_pos_emb(q, k, *eager.rope_embeddings(pixels))
        logits = (q[:, :, :1] @ k.transpose(2, 3))[:, :, 0] / 4
    assert tokens.shape == (2, tower.first_patch + size[0] * size[1], WIDTH)
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(row, logits, atol=1e-5, rtol=1e-5)


def test_the_position_grid_of_the_original_dinov2():
    """The formula of the original code, by hand; transformers' own differs."""
    tower, eager = twins("dinov2")
    grid = tower.pos_embed[:, 1:].reshape(1, GRID, GRID, WIDTH).permute(0, 3, 1, 2)
    scale = (3.1 / GRID, 7.1 / GRID)
    expected = torch.nn.functional.interpolate(grid, scale_factor=scale, mode="bicubic", antialias=False)
    ours = tower.positions(3, 7)
    torch.testing.assert_close(ours[:, 1:], expected.permute(0, 2, 3, 1).reshape(1, 21, WIDTH))
    theirs = eager.embeddings.interpolate_pos_encoding(torch.zeros(1, 22, WIDTH), 42, 98)
    assert (ours - theirs).abs().max() > 1e-3


def clip(activation: str) -> CLIPModel:
    torch.manual_seed(5)
    shape = {"num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "hidden_act": activation}
    model = CLIPModel(
        CLIPConfig(
            text_config={**shape, "hidden_size": 24, "intermediate_size": 40, "vocab_size": 97, "eos_token_id": 96},
            vision_config={
                **shape, "hidden_size": 36, "intermediate_size": 44, "patch_size": 8, "image_size": 8 * GRID,
            },
            projection_dim=17, attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    randomise(model, std=0.2)
    return model


def clip_towers(model: CLIPModel, activation: str) -> tuple[VisionTransformer, TextTransformer]:
    tensors = model.state_dict()
    text = {name: value for name, value in tensors.items() if name.startswith("text_")}
    image = {name: value for name, value in tensors.items() if name.startswith("vis")}
    image_config = vit.clip_image(36, DEPTH, HEADS, 44, patch_size=8, grid=GRID, output=17, activation=activation)
    text_config = vit.clip_text(24, DEPTH, HEADS, 40, vocabulary=97, context=77, output=17, activation=activation)
    return (
        layouts.build(VisionTransformer, image_config, image, keymaps.HUB_IMAGE, "image"),
        layouts.build(TextTransformer, text_config, text, keymaps.HUB_TEXT, "text"),
    )


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip_image(activation):
    eager = clip(activation)
    tower, _ = clip_towers(eager, activation)
    for size in ((GRID, GRID), (3, 7)):
        pixels = torch.randn(2, 3, 8 * size[0], 8 * size[1])
        with torch.no_grad():
            out = eager.vision_model(pixels, interpolate_pos_encoding=True, output_hidden_states=True)
            expected = eager.visual_projection(out.pooler_output)
        torch.testing.assert_close(tower.embed_image(pixels), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(tower.tokens_before_last(pixels), out.hidden_states[-2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip_text(activation):
    """Texts of several lengths; what follows the end token is not read."""
    eager = clip(activation)
    _, tower = clip_towers(eager, activation)
    tokens = torch.randint(0, 96, (5, 13))
    ends = torch.tensor([1, 12, 5, 7, 3])
    tokens[torch.arange(5), ends] = 96
    with torch.no_grad():
        expected = eager.text_projection(eager.text_model(input_ids=tokens).pooler_output)
    torch.testing.assert_close(tower(tokens, ends), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", list(OURS))
def test_dump_is_the_inverse(kind):
    _, eager = twins(kind)
    config, layout = OURS[kind]
    tensors = hub_tensors(kind, eager)
    again = layouts.dump(layouts.build(VisionTransformer, config, tensors, layout, kind), layout)
    assert set(again) == set(tensors)
    assert all(torch.equal(again[name].flatten(), tensors[name].flatten()) for name in tensors)


@pytest.mark.parametrize("kind", list(OURS))
def test_checksums_use_the_names_of_transformers_classes(kind):
    tower, eager = twins(kind)
    theirs = dict(eager.named_parameters())
    ours = layouts.checksum_names(tower)
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name].flatten(), theirs[name].flatten()) for name in ours)


def test_files_that_do_not_fit():
    _, eager = twins("dinov3")
    config, layout = OURS["dinov3"]
    tensors = hub_tensors("dinov3", eager)
    del tensors["layer.1.norm1.bias"]
    tensors["layer.0.extra"] = torch.zeros(2)
    tensors["layer.2.attention.k_proj.bias"] = torch.zeros(WIDTH)  # the configuration says that keys have none
    tensors["layer.2.attention.q_proj.weight"] = torch.zeros(WIDTH, 5)
    with pytest.raises(CheckpointError) as error:
        layouts.build(VisionTransformer, config, tensors, layout, "a small DINOv3")
    message = str(error.value)
    assert message.startswith("the weights do not fit a small DINOv3: missing: layer.1.norm1.bias | ")
    assert "unexpected: layer.0.extra, layer.2.attention.k_proj.bias | " in message
    assert re.search(r"layer\.2\.attention\.q_proj\.weight \(48, 5\) where \(48, 48\) was expected", message)


def test_key_bias_of_the_original_dinov3_is_masked():
    tower, _ = twins("dinov3")
    tensors = layouts.dump(tower, keymaps.DINOV3)
    assert "storage_tokens" in tensors
    tensors["blocks.1.attn.qkv.bias"] = torch.ones(3 * WIDTH)
    tensors["blocks.1.attn.qkv.bias_mask"] = torch.full((3 * WIDTH,), float("nan"))
    tensors["rope_embed.periods"] = torch.zeros(4)
    again = layouts.build(VisionTransformer, tower.config, tensors, keymaps.DINOV3, "DINOv3")
    q, k, v = again.blocks[1].attn.qkv.bias.chunk(3)
    assert (q.unique().item(), k.unique().item(), v.unique().item()) == (1, 0, 1)


@pytest.mark.parametrize("kind", ["dinov2", "dinov2-registers", "dinov3"])
def test_what_depends_on_the_size_is_computed_once(kind, monkeypatch):
    tower, _ = twins(kind)
    made = []
    name = "rotary_table" if kind == "dinov3" else "resize_positions"
    compute = getattr(vit, name)
    monkeypatch.setattr(vit, name, lambda *args, **kwargs: made.append(1) or compute(*args, **kwargs))
    p = tower.config.patch_size
    images = {size: torch.randn(1, 3, p * size[0], p * size[1]) for size in ((3, 7), (7, 3))}
    with torch.inference_mode():
        first = {size: tower(image)[0] for size, image in images.items()}
    again = {size: tower(image)[0] for size, image in images.items()}
    assert len(made) == 2
    assert all(torch.equal(first[size], again[size]) for size in images)
    # Another dtype and new weights are noticed; a copy starts empty.
    tower.to(torch.bfloat16)(images[3, 7].bfloat16())
    assert len(made) == 3
    copy.deepcopy(tower)(images[3, 7].bfloat16())
    assert len(made) == 4
    if kind != "dinov3":
        randomise(tower)
        tower(images[3, 7].bfloat16())
        assert len(made) == 5


def test_gradients_of_pixels_after_inference():
    tower, _ = twins("dinov3")
    pixels = torch.randn(1, 3, 48, 80)
    with torch.inference_mode():
        tower(pixels)
    pixels.requires_grad_(True)
    tower(pixels)[0].sum().backward()
    assert pixels.grad.abs().max() > 0


def test_loading_a_model_imports_neither_transformers_nor_a_compiler():
    code = """
import sys
from talk2dino.models.loading import load_parts
import torch
parts = load_parts("micro")
parts.vision(torch.zeros(1, 3, 64, 64))
parts.text.embed(["sky"])
heavy = ("transformers", "torch._dynamo", "torch._inductor", "sympy", "scipy", "numba", "torch.distributed.tensor")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stdout + done.stderr
