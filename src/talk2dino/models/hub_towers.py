"""Towers from repositories in transformers' layout: facebook/dinov2*, facebook/dinov3* and openai/clip*.

config.json gives the sizes, and defaults are those of transformers' configuration classes. Weights come from
model.safetensors, or from pytorch_model.bin read with ``weights_only=True``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, PositiveFloat, PositiveInt
from torch import Tensor

from talk2dino.errors import CheckpointError, InputError, ModelNotFoundError
from talk2dino.io.settings import build_options
from talk2dino.models import vit
from talk2dino.models.config import CONFIG, read_config
from talk2dino.models.keymaps import HUB_DINOV2, HUB_DINOV3, HUB_IMAGE, HUB_TEXT
from talk2dino.models.layouts import build
from talk2dino.models.vit import TextTransformer, VisionTransformer, ViTConfig
from talk2dino.models.weights import read_tensors

#: Gives the local path of one file of a repository; raises ModelNotFoundError.
FindFile = Callable[[str], Path]
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class _Sizes(BaseModel, frozen=True):
    """Fields that all of the configurations have."""

    hidden_size: PositiveInt = 768
    num_hidden_layers: PositiveInt = 12
    num_attention_heads: PositiveInt = 12
    layer_norm_eps: PositiveFloat = 1e-5

    def common(self) -> dict[str, Any]:
        if self.hidden_size % self.num_attention_heads:
            raise InputError(f"hidden_size {self.hidden_size} is not a multiple of {self.num_attention_heads} heads")
        return {
            "width": self.hidden_size, "depth": self.num_hidden_layers, "heads": self.num_attention_heads,
            "eps": self.layer_norm_eps,
        }  # fmt: skip


class _Dinov2(_Sizes, frozen=True):
    mlp_ratio: PositiveFloat = 4
    patch_size: PositiveInt = 14
    image_size: PositiveInt = 224
    num_register_tokens: int = 4
    layer_norm_eps: PositiveFloat = 1e-6
    hidden_act: Literal["gelu"] = "gelu"
    qkv_bias: bool = True
    use_swiglu_ffn: bool = False

    def tower(self, registers: bool) -> ViTConfig:
        hidden = int(self.hidden_size * self.mlp_ratio)
        if self.use_swiglu_ffn:
            hidden = (int(hidden * 2 / 3) + 7) // 8 * 8  # two thirds, rounded up to a multiple of 8
        sizes: dict[str, Any] = {
            "hidden": hidden, "patch_size": self.patch_size, "grid": self.image_size // self.patch_size,
            "activation": "swiglu" if self.use_swiglu_ffn else "gelu", "qkv_bias": "qkv" if self.qkv_bias else "",
        }  # fmt: skip
        if registers:
            return vit.dinov2_registers(**self.common(), **sizes, registers=self.num_register_tokens)
        return vit.dinov2(**self.common(), **sizes)


class _Dinov3(_Sizes, frozen=True):
    hidden_size: PositiveInt = 384
    intermediate_size: PositiveInt = 1536
    num_attention_heads: PositiveInt = 6
    patch_size: PositiveInt = 16
    num_register_tokens: int = 0
    hidden_act: Literal["gelu", "silu"] = "gelu"
    rope_theta: PositiveFloat = 100.0
    query_bias: bool = True
    key_bias: bool = False
    value_bias: bool = True
    use_gated_mlp: bool = False

    def tower(self) -> ViTConfig:
        if (self.hidden_act == "silu") != self.use_gated_mlp:
            raise InputError("hidden_act must be silu with use_gated_mlp, and gelu without")
        biases = (self.query_bias, self.key_bias, self.value_bias)
        return vit.dinov3(
            **self.common(), hidden=self.intermediate_size, patch_size=self.patch_size,
            registers=self.num_register_tokens, activation="swiglu" if self.use_gated_mlp else "gelu",
            rope_theta=self.rope_theta, qkv_bias="".join(name for name, has in zip("qkv", biases, strict=True) if has),
        )  # fmt: skip


class _ClipImage(_Sizes, frozen=True):
    intermediate_size: PositiveInt = 3072
    patch_size: PositiveInt = 32
    image_size: PositiveInt = 224
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"

    def tower(self, output: int) -> ViTConfig:
        return vit.clip_image(
            **self.common(), hidden=self.intermediate_size, patch_size=self.patch_size, output=output,
            grid=self.image_size // self.patch_size, activation=self.hidden_act,
        )  # fmt: skip


class _ClipText(_Sizes, frozen=True):
    hidden_size: PositiveInt = 512
    num_attention_heads: PositiveInt = 8
    intermediate_size: PositiveInt = 2048
    vocab_size: PositiveInt = 49408
    max_position_embeddings: PositiveInt = 77
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"

    def tower(self, output: int) -> ViTConfig:
        return vit.clip_text(
            **self.common(), hidden=self.intermediate_size, vocabulary=self.vocab_size, output=output,
            context=self.max_position_embeddings, activation=self.hidden_act,
        )  # fmt: skip


def vision_from_hub(repository: str, find: FindFile) -> VisionTransformer:
    """DINOv2, with or without registers, or DINOv3.

    Raises:
        ModelNotFoundError: not in the cache, and cannot be downloaded.
        CheckpointError: another kind of model, or weights that do not fit config.json.
    """
    kinds = ("dinov2", "dinov2_with_registers", "dinov3_vit")
    values = _config(repository, find, kinds)
    with _naming(repository):
        if values["model_type"] == "dinov3_vit":
            config, layout = build_options(_Dinov3, values).tower(), HUB_DINOV3
        else:
            registers = values["model_type"] == "dinov2_with_registers"
            config, layout = build_options(_Dinov2, values).tower(registers), HUB_DINOV2
        return build(VisionTransformer, config, _weights(find), layout, CONFIG)


def clip_text_from_hub(repository: str, find: FindFile) -> TextTransformer:
    """CLIP's text tower; raises as :func:`vision_from_hub`."""
    values = _config(repository, find, ("clip",))
    with _naming(repository):
        config = build_options(_ClipText, values.get("text_config", {})).tower(_output(values))
        tensors = _without(_weights(find), "vision_model.", "visual_projection.")
        return build(TextTransformer, config, tensors, HUB_TEXT, CONFIG)


def clip_image_from_hub(repository: str, find: FindFile) -> VisionTransformer:
    """CLIP's image tower; raises as :func:`vision_from_hub`."""
    values = _config(repository, find, ("clip",))
    with _naming(repository):
        config = build_options(_ClipImage, values.get("vision_config", {})).tower(_output(values))
        tensors = _without(_weights(find), "text_model.", "text_projection.")
        return build(VisionTransformer, config, tensors, HUB_IMAGE, CONFIG)


def _config(repository: str, find: FindFile, kinds: tuple[str, ...]) -> dict[str, Any]:
    values = read_config(find(CONFIG))
    if values.get("model_type") not in kinds:
        raise CheckpointError(
            f"{repository} holds a model of type {values.get('model_type')!r}; accepted: {', '.join(kinds)}"
        )
    return values


def _output(values: dict[str, Any]) -> int:
    output = values.get("projection_dim", 512)
    if not isinstance(output, int) or output < 1:
        raise InputError(f"projection_dim must be a positive integer; got {output!r}")
    return output


def _without(tensors: dict[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """Without the tensors of the other tower."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}


def _weights(find: FindFile) -> dict[str, Tensor]:
    try:
        return read_tensors(find(WEIGHTS[0]))
    except ModelNotFoundError as error:
        try:
            return read_tensors(find(WEIGHTS[1]))
        except ModelNotFoundError:
            raise error from None


@contextlib.contextmanager
def _naming(repository: str) -> Iterator[None]:
    """Add the repository to the error of a configuration or of weights."""
    try:
        yield
    except InputError as error:
        raise CheckpointError(f"{CONFIG} of {repository} is not supported: {error}") from None
    except CheckpointError as error:
        raise CheckpointError(f"{repository}: {error}; delete it from the cache to download it again") from None
