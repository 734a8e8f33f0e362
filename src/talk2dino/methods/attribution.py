"""Which pixels of a generated picture a word of its caption is about: cross-attention of Stable Diffusion, recorded.

In every cross-attention of the U-Net (queries from the picture at resolution h x w, keys from the T caption tokens)

    P = softmax(Q K^T / sqrt(d))   (heads, h*w, T),   a row adds up to 1

The attribution of token t is the mean of P[:, :, t] over heads, cross-attentions and denoising steps, each resized to
the latent's size; so the attributions of all T tokens add up to 1 at every pixel. A word's map is the sum over its
tokens.

Only diffusers' attention processors are set, and put back afterwards; nothing is patched.

Source: DAAM (Tang et al., ACL 2023, arXiv 2210.04885), as FreeDA uses it to find where a word's object is.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.errors import InputError

#: Words that name nothing that could be seen; the other words of a caption are asked for.
_STOP = (
    "a an the this that these those there here it its is are was were be been being am do does did has have had having "
    "and or but if so as at by for from in into of off on onto out over to up with without under above below between "
    "behind beside near next front back top bottom left right side through across along around against upon while who "
    "which what where when how his her their our your my he she they we you i him them us me some any each every both "
    "all no not very too also just only one two three four five six several many few lot lots other another same such "
    "can could will would should may might must sitting standing laying lying holding wearing looking walking riding "
    "photo picture image drawing showing shows"
)
STOP_WORDS = frozenset(_STOP.split())


class RecordingProcessor:
    """An attention processor that computes cross-attention with its probabilities in the open and hands them over.

    Self-attention goes the ordinary way, through the processor that was set before.
    """

    def __init__(self, ordinary: Any, recorder: CrossAttentionRecorder) -> None:
        self.ordinary = ordinary
        self.recorder = recorder

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None, temb: Tensor | None = None, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        if encoder_hidden_states is None:
            return self.ordinary(attn, hidden_states, None, attention_mask, temb, **kwargs)
        residual = hidden_states
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))  # [B, h*w, D] -> [B*heads, h*w, d]
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        value = attn.head_to_batch_dim(attn.to_v(encoder_hidden_states))
        probabilities = attn.get_attention_scores(query, key, attention_mask)  # [B*heads, h*w, T]
        self.recorder.add(probabilities.unflatten(0, (-1, attn.heads)))
        out = attn.batch_to_head_dim(torch.bmm(probabilities, value))
        out = attn.to_out[1](attn.to_out[0](out))
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor


class CrossAttentionRecorder:
    """Adds up cross-attention probabilities over heads, layers and steps.

    Args:
        size: (h, w) of the latent, to which all maps are resized.
        guided: classifier-free guidance runs every step on (without caption, with caption): the second half counts.
    """

    def __init__(self, size: tuple[int, int], *, guided: bool) -> None:
        self.size = size
        self.guided = guided
        self.count = 0
        self.total: Tensor | None = None

    def add(self, probabilities: Tensor) -> None:
        """Record one layer's (B, heads, h*w, T) probabilities."""
        if self.guided:
            probabilities = probabilities[probabilities.shape[0] // 2 :]
        mean = probabilities.float().mean(1)  # [B, h*w, T]
        height, width = _layer_size(mean.shape[1], self.size)
        maps = mean.transpose(1, 2).unflatten(2, (height, width))
        maps = F.interpolate(maps, self.size, mode="bilinear", align_corners=False)
        self.total = maps if self.total is None else self.total + maps
        self.count += 1

    def maps(self) -> Tensor:
        """(B, T, h, w) attributions: at every pixel they add up to 1 over the tokens."""
        if self.total is None:
            raise InputError("no cross-attention was recorded: the pipeline's U-Net has none, or it has not run")
        return (self.total / self.count).cpu()


def _layer_size(positions: int, size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of a layer with h*w positions: the latent's size halved until it fits, rounded up as convolutions do."""
    height, width = size
    while height * width > positions:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != positions:
        raise InputError(f"a layer with {positions} positions does not belong to a latent of {size[0]} x {size[1]}")
    return height, width


@contextlib.contextmanager
def recording(unet: Any, size: tuple[int, int], *, guided: bool) -> Iterator[CrossAttentionRecorder]:
    """Record a U-Net's cross-attention inside the block; its processors are put back afterwards."""
    recorder = CrossAttentionRecorder(size, guided=guided)
    before = dict(unet.attn_processors)
    unet.set_attn_processor({name: RecordingProcessor(one, recorder) for name, one in before.items()})
    try:
        yield recorder
    finally:
        unet.set_attn_processor(before)


@dataclass(frozen=True)
class Generated:
    """A picture made from a caption, (H, W, 3) uint8 RGB, and for each word asked for its (H, W) map from 0 to 1."""

    image: np.ndarray
    words: tuple[str, ...]
    maps: np.ndarray  # (W, H, W') float32, one a word


def caption_words(caption: str, vocabulary: Sequence[str] | None = None) -> list[str]:
    """The words of a caption to ask for: those of the vocabulary, or all that are not in STOP_WORDS, each once."""
    text = " ".join(re.findall(r"[\w'-]+", caption.lower()))
    if vocabulary is not None:
        return [word for word in vocabulary if f" {word.lower()} " in f" {text} "]
    return list(dict.fromkeys(word for word in text.split() if word not in STOP_WORDS and not word.isdigit()))


def word_tokens(tokenizer: Any, caption: str, word: str) -> list[int]:
    """Places of a word's tokens (all its occurrences) in the caption's token ids; place 0 is the start token."""
    tokens = tokenizer(caption, truncation=True, max_length=tokenizer.model_max_length).input_ids
    own = tokenizer(word, add_special_tokens=False).input_ids
    starts = [i for i in range(1, len(tokens) - len(own)) if tokens[i : i + len(own)] == own]
    return [start + i for start in starts for i in range(len(own))]


@torch.inference_mode()
def generate(
    pipeline: Any, caption: str, words: Sequence[str], *, size: tuple[int, int] = (512, 512), steps: int = 30,
    guidance: float = 7.5, seed: int = 0,
) -> Generated:  # fmt: skip
    """Make a picture from a caption and say where its words are.

    Args:
        pipeline: a diffusers StableDiffusionPipeline.
        words: words of the caption; those that the tokenizer cut off are left out of the result.
        size: (height, width) of the picture, multiples of the pipeline's scale (8).

    Returns:
        The picture and one map a word, scaled to 0..1 by its own smallest and largest value.
    """
    scale = pipeline.vae_scale_factor
    latent = (size[0] // scale, size[1] // scale)
    generator = torch.Generator().manual_seed(seed)
    with recording(pipeline.unet, latent, guided=guidance > 1) as recorder:
        made = pipeline(
            caption, height=size[0], width=size[1], num_inference_steps=steps, guidance_scale=guidance,
            generator=generator, output_type="np",
        )  # fmt: skip
    image = (made.images[0] * 255).round().clip(0, 255).astype(np.uint8)
    places = {word: word_tokens(pipeline.tokenizer, caption, word) for word in words}
    found = tuple(word for word in words if places[word])
    if not found:
        return Generated(image, (), np.zeros((0, *size), dtype=np.float32))
    attributions = recorder.maps()[0]
    maps = torch.stack([attributions[places[word]].sum(0) for word in found])
    maps = F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return Generated(image, found, ((maps - low) / (high - low).clamp(min=1e-12)).numpy())
