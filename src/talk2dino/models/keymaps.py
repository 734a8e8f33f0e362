"""Explicit key maps: where each original tensor goes in transformers' classes, one line per parameter.

An original tensor may hold several of ours, stacked along the first axis (q, k, v).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """One original tensor and the parameters that it holds; ``{}`` stands for the block's number."""

    original: str
    ours: tuple[str, ...]
    transposed: bool = False


def rule(original: str, *ours: str, transposed: bool = False) -> Rule:
    return Rule(original, ours, transposed)


def _attention(weight: str) -> tuple[str, str, str]:
    return tuple(f"encoder.layer.{{}}.attention.{name}_proj.{weight}" for name in "qkv")  # type: ignore[return-value]


DINOV2_STEM = (
    rule("cls_token", "embeddings.cls_token"),
    rule("mask_token", "embeddings.mask_token"),
    rule("pos_embed", "embeddings.position_embeddings"),
    rule("register_tokens", "embeddings.register_tokens"),
    rule("patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight"),
    rule("patch_embed.proj.bias", "embeddings.patch_embeddings.projection.bias"),
    rule("norm.weight", "layernorm.weight"),
    rule("norm.bias", "layernorm.bias"),
)
DINOV2_BLOCK = (
    rule("blocks.{}.norm1.weight", "encoder.layer.{}.norm1.weight"),
    rule("blocks.{}.norm1.bias", "encoder.layer.{}.norm1.bias"),
    rule("blocks.{}.attn.qkv.weight", *_attention("weight")),
    rule("blocks.{}.attn.qkv.bias", *_attention("bias")),
    rule("blocks.{}.attn.proj.weight", "encoder.layer.{}.attention.o_proj.weight"),
    rule("blocks.{}.attn.proj.bias", "encoder.layer.{}.attention.o_proj.bias"),
    rule("blocks.{}.ls1.gamma", "encoder.layer.{}.layer_scale1.lambda1"),
    rule("blocks.{}.norm2.weight", "encoder.layer.{}.norm2.weight"),
    rule("blocks.{}.norm2.bias", "encoder.layer.{}.norm2.bias"),
    rule("blocks.{}.mlp.fc1.weight", "encoder.layer.{}.mlp.fc1.weight"),
    rule("blocks.{}.mlp.fc1.bias", "encoder.layer.{}.mlp.fc1.bias"),
    rule("blocks.{}.mlp.fc2.weight", "encoder.layer.{}.mlp.fc2.weight"),
    rule("blocks.{}.mlp.fc2.bias", "encoder.layer.{}.mlp.fc2.bias"),
    rule("blocks.{}.ls2.gamma", "encoder.layer.{}.layer_scale2.lambda1"),
)
DINOV3_STEM = (
    rule("cls_token", "embeddings.cls_token"),
    rule("mask_token", "embeddings.mask_token"),
    rule("storage_tokens", "embeddings.register_tokens"),
    rule("patch_embed.proj.weight", "embeddings.patch_embeddings.weight"),
    rule("patch_embed.proj.bias", "embeddings.patch_embeddings.bias"),
    rule("norm.weight", "norm.weight"),
    rule("norm.bias", "norm.bias"),
)
DINOV3_BLOCK = (
    rule("blocks.{}.norm1.weight", "model.layer.{}.norm1.weight"),
    rule("blocks.{}.norm1.bias", "model.layer.{}.norm1.bias"),
    rule("blocks.{}.attn.qkv.weight", *(f"model.layer.{{}}.attention.{n}_proj.weight" for n in "qkv")),
    rule("blocks.{}.attn.qkv.bias", *(f"model.layer.{{}}.attention.{n}_proj.bias" for n in "qkv")),
    rule("blocks.{}.attn.proj.weight", "model.layer.{}.attention.o_proj.weight"),
    rule("blocks.{}.attn.proj.bias", "model.layer.{}.attention.o_proj.bias"),
    rule("blocks.{}.ls1.gamma", "model.layer.{}.layer_scale1.lambda1"),
    rule("blocks.{}.norm2.weight", "model.layer.{}.norm2.weight"),
    rule("blocks.{}.norm2.bias", "model.layer.{}.norm2.bias"),
    rule("blocks.{}.mlp.fc1.weight", "model.layer.{}.mlp.up_proj.weight"),
    rule("blocks.{}.mlp.fc1.bias", "model.layer.{}.mlp.up_proj.bias"),
    rule("blocks.{}.mlp.fc2.weight", "model.layer.{}.mlp.down_proj.weight"),
    rule("blocks.{}.mlp.fc2.bias", "model.layer.{}.mlp.down_proj.bias"),
    rule("blocks.{}.ls2.gamma", "model.layer.{}.layer_scale2.lambda1"),
)
#: Buffers of the original DINOv3 that follow from its configuration, and the mask that zeroes the key bias.
DINOV3_IGNORED = ("rope_embed.periods",)
DINOV3_IGNORED_BLOCK = ("blocks.{}.attn.qkv.bias_mask",)


def _clip_block(tower: str, prefix: str) -> tuple[Rule, ...]:
    ours, theirs = f"{tower}.encoder.layers.{{}}", f"{prefix}transformer.resblocks.{{}}"
    return (
        rule(f"{theirs}.ln_1.weight", f"{ours}.layer_norm1.weight"),
        rule(f"{theirs}.ln_1.bias", f"{ours}.layer_norm1.bias"),
        rule(f"{theirs}.attn.in_proj_weight", *(f"{ours}.self_attn.{n}_proj.weight" for n in "qkv")),
        rule(f"{theirs}.attn.in_proj_bias", *(f"{ours}.self_attn.{n}_proj.bias" for n in "qkv")),
        rule(f"{theirs}.attn.out_proj.weight", f"{ours}.self_attn.out_proj.weight"),
        rule(f"{theirs}.attn.out_proj.bias", f"{ours}.self_attn.out_proj.bias"),
        rule(f"{theirs}.ln_2.weight", f"{ours}.layer_norm2.weight"),
        rule(f"{theirs}.ln_2.bias", f"{ours}.layer_norm2.bias"),
        rule(f"{theirs}.mlp.c_fc.weight", f"{ours}.mlp.fc1.weight"),
        rule(f"{theirs}.mlp.c_fc.bias", f"{ours}.mlp.fc1.bias"),
        rule(f"{theirs}.mlp.c_proj.weight", f"{ours}.mlp.fc2.weight"),
        rule(f"{theirs}.mlp.c_proj.bias", f"{ours}.mlp.fc2.bias"),
    )


CLIP_TEXT_STEM = (
    rule("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    rule("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    rule("ln_final.weight", "text_model.final_layer_norm.weight"),
    rule("ln_final.bias", "text_model.final_layer_norm.bias"),
    rule("text_projection", "text_projection.weight", transposed=True),
)
CLIP_TEXT_BLOCK = _clip_block("text_model", "")
CLIP_VISION_STEM = (
    rule("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    rule("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    rule("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    rule("visual.ln_pre.weight", "vision_model.pre_layrnorm.weight"),
    rule("visual.ln_pre.bias", "vision_model.pre_layrnorm.bias"),
    rule("visual.ln_post.weight", "vision_model.post_layernorm.weight"),
    rule("visual.ln_post.bias", "vision_model.post_layernorm.bias"),
    rule("visual.proj", "visual_projection.weight", transposed=True),
)
CLIP_VISION_BLOCK = _clip_block("vision_model", "visual.")
