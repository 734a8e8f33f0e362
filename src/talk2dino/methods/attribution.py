"""Find the pixels of a generated image that belong to a word of its caption, from Stable Diffusion's cross-attention.

In a cross-attention of the U-Net (queries from the image at resolution h x w, keys from the T tokens of the caption)

    P = softmax(Q K^T / sqrt(d))   (heads, h*w, T)

The map of a token is the mean of P[:, :, t] over denoising steps, per layer and head; resized to the latent's size, bicubic
and clamped at 0; and averaged over all (layer, head). The middle block is left out. The map of a word is the mean over its
tokens, resized to the image (bicubic) and scaled by (x - min) / (max - min).

Only the attention processors of diffusers are replaced, and put back afterwards.

Source: DAAM (Tang et al., ACL 2023, arXiv 2210.04885) and its code (castorini/daam, daam/trace.py, daam/heatmap.py and
daam/hook.py, whose locator leaves the middle block out); FreeDA's paper finds the objects of its captions with it. The stop
words are our choice.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.errors import InputError

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from diffusers.models.attention_processor import Attention

#: Words that name nothing visible; all other words of a caption are looked for.
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
    """An attention processor that computes cross-attention explicitly and records its probabilities.

    Args:
        ordinary: the processor that it replaces; self-attention still goes through it.
        recorder: receives the probabilities. layer: the name under which they are added up.
    """

    def __init__(self, ordinary: Any, recorder: CrossAttentionRecorder, layer: str) -> None:
        self.ordinary, self.recorder, self.layer = ordinary, recorder, layer

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None, temb: Tensor | None = None, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        if encoder_hidden_states is None:
            return self.ordinary(attn, hidden_states, None, attention_mask, temb, **kwargs)
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))  # [B, h*w, D] -> [B*heads, h*w, d]
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        value = attn.head_to_batch_dim(attn.to_v(encoder_hidden_states))
        probabilities = attn.get_attention_scores(query, key, attention_mask)  # [B*heads, h*w, T]
        self.recorder.add(self.layer, probabilities.unflatten(0, (-1, attn.heads)))
        out = attn.batch_to_head_dim(torch.bmm(probabilities, value))
        out = attn.to_out[1](attn.to_out[0](out))
        if attn.residual_connection:
            out = out + hidden_states
        return out / attn.rescale_output_factor


class CrossAttentionRecorder:
    """Adds up cross-attention probabilities over denoising steps, per layer and head.

    Args:
        size: (h, w) of the latent, to which all maps are resized.
        guided: with classifier-free guidance a batch holds (without caption, with caption); the second half is recorded.
    """

    def __init__(self, size: tuple[int, int], *, guided: bool) -> None:
        self.size, self.guided = size, guided
        self.sums: dict[str, Tensor] = {}
        self.steps: dict[str, int] = {}

    def add(self, layer: str, probabilities: Tensor) -> None:
        """Record the (B, heads, h*w, T) probabilities of one layer at one step."""
        if self.guided:
            probabilities = probabilities[probabilities.shape[0] // 2 :]
        probabilities = probabilities.float()
        self.sums[layer] = self.sums[layer] + probabilities if layer in self.sums else probabilities
        self.steps[layer] = self.steps.get(layer, 0) + 1

    def maps(self) -> Tensor:
        """(B, T, h, w) maps of the tokens, on the CPU."""
        if not self.sums:
            raise InputError("no cross-attention was recorded: the pipeline has not run, or its U-Net has none")
        maps = []
        for layer, total in self.sums.items():
            height, width = _layer_size(total.shape[2], self.size)
            mean = (total / self.steps[layer]).permute(1, 0, 3, 2).unflatten(3, (height, width))  # [heads, B, T, h, w]
            maps += [F.interpolate(one, self.size, mode="bicubic").clamp(min=0) for one in mean]
        return torch.stack(maps).mean(0).cpu()


def _layer_size(positions: int, size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of a layer with h*w positions: the latent's size, halved as often as needed, rounded up as convolutions do."""
    height, width = size
    while height * width > positions:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != positions:
        raise InputError(f"a layer with {positions} positions does not fit a latent of {size[0]} x {size[1]}")
    return height, width


@contextlib.contextmanager
def recording(
    unet: UNet2DConditionModel, size: tuple[int, int], *, guided: bool
) -> Iterator[CrossAttentionRecorder]:  # fmt: skip
    """Record a U-Net's cross-attention inside the block, except that of its middle block."""
    recorder = CrossAttentionRecorder(size, guided=guided)
    before = dict(unet.attn_processors)
    unet.set_attn_processor(
        {
            name: one if name.startswith("mid_block") else RecordingProcessor(one, recorder, name)
            for name, one in before.items()
        }
    )
    try:
        yield recorder
    finally:
        unet.set_attn_processor(before)


@dataclass(frozen=True)
class Generated:
    """An image made from a caption, (H, W, 3) uint8 RGB, and the maps of ``words``, (len(words), H, W) float32 in 0..1."""

    image: np.ndarray
    words: tuple[str, ...]
    maps: np.ndarray


def caption_words(caption: str, vocabulary: Sequence[str] | None = None) -> list[str]:
    """The words to look for in a caption, each once: those of the vocabulary, or all that are not in STOP_WORDS."""
    text = " ".join(re.findall(r"[\w'-]+", caption.lower()))
    if vocabulary is not None:
        return [word for word in vocabulary if f" {word.lower()} " in f" {text} "]
    return list(dict.fromkeys(word for word in text.split() if word not in STOP_WORDS and not word.isdigit()))


def word_tokens(tokenizer: Any, caption: str, word: str) -> list[int]:
    """Places of a word's tokens, in all its occurrences, among the caption's token ids; place 0 is the start token."""
    tokens = tokenizer(caption, truncation=True, max_length=tokenizer.model_max_length).input_ids
    own = tokenizer(word, add_special_tokens=False).input_ids
    starts = [i for i in range(1, len(tokens) - len(own)) if tokens[i : i + len(own)] == own]
    return [start + i for start in starts for i in range(len(own))]


@torch.inference_mode()
def generate(
    pipeline: StableDiffusionPipeline, caption: str, words: Sequence[str], *, size: tuple[int, int] = (512, 512),
    steps: int = 30, guidance: float = 7.5, seed: int = 0,
) -> Generated:  # fmt: skip
    """Generate an image from a caption, with a map of each word.

    Args:
        words: words of the caption. Those that the tokenizer cut off are missing in the result.
        size: (height, width) in pixels, multiples of 8.
        steps: denoising steps. guidance: classifier-free guidance; 1 turns it off. seed: of the first latent.
    """
    scale = pipeline.vae_scale_factor
    latent = (size[0] // scale, size[1] // scale)
    with recording(pipeline.unet, latent, guided=guidance > 1) as recorder:
        made = pipeline(
            caption, height=size[0], width=size[1], num_inference_steps=steps, guidance_scale=guidance,
            generator=torch.Generator().manual_seed(seed), output_type="np",
        )  # fmt: skip
    image = (made.images[0] * 255).round().clip(0, 255).astype(np.uint8)
    places = {word: word_tokens(pipeline.tokenizer, caption, word) for word in words}
    found = tuple(word for word in words if places[word])
    if not found:
        return Generated(image, (), np.zeros((0, *size), dtype=np.float32))
    tokens = recorder.maps()[0]
    maps = F.interpolate(torch.stack([tokens[places[word]].mean(0) for word in found])[None], size, mode="bicubic")[0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return Generated(image, found, ((maps - low) / (high - low).clamp(min=1e-12)).numpy())
