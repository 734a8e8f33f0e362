"""Explicit key maps: where each layout of files keeps the parameters of vit.py, one line per module.

A layout may split one of our parameters into several tensors, stacked along the first axis (q, k, v). Names without
``.weight`` or ``.bias`` stand for both. A module that a table does not list has the same name in the layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Names = str | tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """How one kind of file names the tensors of a tower.

    Attributes:
        stem: our names outside the blocks, to the layout's.
        block: our names inside a block, to the layout's.
        blocks: the layout's name of a block, ``{}`` standing for its number; "blocks.0.norm1" is "norm1" in ``block``.
        transposed: our parameters that the layout keeps transposed.
        squeezed: our parameters that the layout keeps without axes of length 1.
        ignored: tensors of the layout that carry nothing; ``{}`` stands for a block's number.
    """

    stem: Mapping[str, Names] = field(default_factory=dict)
    block: Mapping[str, Names] = field(default_factory=dict)
    blocks: str = "blocks.{}."
    transposed: frozenset[str] = frozenset()
    squeezed: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = ()

    def names(self, parameter: str) -> tuple[str, ...]:
        """The layout's tensors that make up one of our parameters."""
        table, prefix, rest = self.stem, "", parameter
        if parameter.startswith("blocks."):
            _, number, rest = parameter.split(".", 2)
            table, prefix = self.block, self.blocks.format(number)
        module, _, leaf = rest.rpartition(".")
        found = table.get(rest)
        if found is None:
            found, leaf = table.get(module, module), f".{leaf}" if module else leaf
        else:
            leaf = ""
        return tuple(prefix + name + leaf for name in ((found,) if isinstance(found, str) else found))

    def ignores(self, name: str) -> bool:
        """Whether a tensor of a file carries nothing."""
        return ".".join("{}" if part.isdigit() else part for part in name.split(".")) in self.ignored


def _each(template: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(template.format(name) for name in names)


#: DINOv2 in its original naming, which is ours.
DINOV2 = Layout()
#: DINOv3 in its original naming. The periods follow from the configuration; the mask zeroes the key bias.
DINOV3 = Layout(
    stem={"register_tokens": "storage_tokens"}, ignored=("rope_embed.periods", "blocks.{}.attn.qkv.bias_mask")
)

_OPENAI_BLOCK = {
    "norm1": "ln_1",
    "attn.qkv.weight": "attn.in_proj_weight",
    "attn.qkv.bias": "attn.in_proj_bias",
    "attn.proj": "attn.out_proj",
    "norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
OPENAI_TEXT = Layout(
    stem={
        "token_embed": "token_embedding",
        "pos_embed": "positional_embedding",
        "norm": "ln_final",
        "proj.weight": "text_projection",
    },
    block=_OPENAI_BLOCK,
    blocks="transformer.resblocks.{}.",
    transposed=frozenset({"proj.weight"}),
    ignored=("logit_scale", "input_resolution", "context_length", "vocab_size"),
)
OPENAI_IMAGE = Layout(
    stem={
        "cls_token": "visual.class_embedding",
        "pos_embed": "visual.positional_embedding",
        "patch_embed.proj": "visual.conv1",
        "norm_pre": "visual.ln_pre",
        "norm": "visual.ln_post",
        "proj.weight": "visual.proj",
    },
    block=_OPENAI_BLOCK,
    blocks="visual.transformer.resblocks.{}.",
    transposed=frozenset({"proj.weight"}),
    squeezed=frozenset({"cls_token", "pos_embed"}),
)

# --- transformers' layouts on the hub ------------------------------------------------------------------------------

_HUB_DINOV2_STEM = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "pos_embed": "embeddings.position_embeddings",
    "register_tokens": "embeddings.register_tokens",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_HUB_SCALES = {"ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
HUB_DINOV2 = Layout(
    stem=_HUB_DINOV2_STEM,
    block={
        **_HUB_SCALES,
        "attn.qkv": _each("attention.attention.{}", ("query", "key", "value")),
        "attn.proj": "attention.output.dense",
        "mlp.w12": "mlp.weights_in",
        "mlp.w3": "mlp.weights_out",
    },
    blocks="encoder.layer.{}.",
)
_HUB_DINOV3_STEM = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "register_tokens": "embeddings.register_tokens",
    "patch_embed.proj": "embeddings.patch_embeddings",
}
_HUB_DINOV3_BLOCK: dict[str, Names] = {
    **_HUB_SCALES,
    "attn.qkv": _each("attention.{}_proj", "qkv"),
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.up_proj",
    "mlp.fc2": "mlp.down_proj",
    "mlp.w12": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.w3": "mlp.down_proj",
}
HUB_DINOV3 = Layout(stem=_HUB_DINOV3_STEM, block=_HUB_DINOV3_BLOCK, blocks="layer.{}.")
_HUB_CLIP_BLOCK: dict[str, Names] = {
    "norm1": "layer_norm1",
    "attn.qkv": _each("self_attn.{}_proj", "qkv"),
    "attn.proj": "self_attn.out_proj",
    "norm2": "layer_norm2",
}
HUB_TEXT = Layout(
    stem={
        "token_embed": "text_model.embeddings.token_embedding",
        "pos_embed": "text_model.embeddings.position_embedding.weight",
        "norm": "text_model.final_layer_norm",
        "proj": "text_projection",
    },
    block=_HUB_CLIP_BLOCK,
    blocks="text_model.encoder.layers.{}.",
    ignored=("logit_scale", "text_model.embeddings.position_ids"),
)
HUB_IMAGE = Layout(
    stem={
        "cls_token": "vision_model.embeddings.class_embedding",
        "pos_embed": "vision_model.embeddings.position_embedding.weight",
        "patch_embed.proj": "vision_model.embeddings.patch_embedding",
        "norm_pre": "vision_model.pre_layrnorm",
        "norm": "vision_model.post_layernorm",
        "proj": "visual_projection",
    },
    block=_HUB_CLIP_BLOCK,
    blocks="vision_model.encoder.layers.{}.",
    squeezed=frozenset({"cls_token", "pos_embed"}),
    ignored=("logit_scale", "vision_model.embeddings.position_ids"),
)

# --- names in checksums --------------------------------------------------------------------------------------------

#: Release 0.1.0 computed checksums over the names of transformers 5's classes. They are in stores, in trained projections
#: and in reports, so they stay. CLIP's names there are those of the hub.
CHECKSUM_DINOV2 = Layout(
    stem=_HUB_DINOV2_STEM,
    block={
        **_HUB_SCALES,
        "attn.qkv": _each("attention.{}_proj", "qkv"),
        "attn.proj": "attention.o_proj",
        "mlp.w12": ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.w3": "mlp.down_proj",
    },
    blocks="encoder.layer.{}.",
)
CHECKSUM_DINOV3 = Layout(stem=_HUB_DINOV3_STEM, block=_HUB_DINOV3_BLOCK, blocks="model.layer.{}.")
