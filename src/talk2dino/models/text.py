"""Frozen CLIP text: prompt templates, synonyms, and the raw end-of-text embedding that psi reads."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from talk2dino.io.cache import cache_folder
from talk2dino.models.fingerprint import quick_checksum
from talk2dino.models.templates import PUBLISHED_TEMPLATES, check_templates
from talk2dino.models.text_cache import TextCache
from talk2dino.models.tokenizer import TextTokenizer
from talk2dino.models.vit import TextTransformer

if TYPE_CHECKING:
    from talk2dino.models.text_tower import HubTokenizer, TextTower


class TextEncoder(nn.Module):
    """Texts to raw CLIP embeddings. Each text is encoded once and then found in a cache.

    Args:
        model: CLIP's text tower, or one that was distilled into its space.
        tokenizer: texts to token ids.
        templates: prompt templates; each must have one ``{}`` for the class name.
        cache_size: number of embeddings kept in memory (C floats each).
        disk_cache: also keep the embeddings of prompts on disk, in :func:`talk2dino.io.cache.cache_folder`.
    """

    def __init__(
        self,
        model: TextTransformer | TextTower,
        tokenizer: TextTokenizer | HubTokenizer,
        templates: Sequence[str] = PUBLISHED_TEMPLATES,
        *,
        cache_size: int = 65536,
        disk_cache: bool = False,
    ) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.templates = check_templates(templates)
        self.dim: int = model.proj.out_features
        self.max_length: int = model.config.context
        self._cache: OrderedDict[str, Tensor] = OrderedDict()
        self._cache_size = cache_size
        self._on_disk = disk_cache

    @property
    def device(self) -> torch.device:
        return self.model.proj.weight.device

    def tokenize(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        """(N, max_length) token ids, zero-padded."""
        return self.tokenizer(texts, truncate=truncate)

    @torch.no_grad()
    def embed(self, texts: Sequence[str], *, batch_size: int = 256, truncate: bool = False) -> Tensor:
        """Raw projected end-of-text embeddings.

        Args:
            texts: N strings.
            batch_size: texts per forward pass.
            truncate: cut texts that are too long (captions) instead of raising an error (prompts).

        Returns:
            (N, C) float32 on the CPU, not normalised.

        Raises:
            PromptError: a text is too long and truncate is False.
        """
        found = {text: self._cache[text] for text in texts if text in self._cache}
        new = [text for text in dict.fromkeys(texts) if text not in found]
        disk = self._disk if new and not truncate else None
        if disk is not None:
            kept = disk.get(new)
            found.update(kept)
            self._cache.update(kept)
            new = [text for text in new if text not in kept]
        tokens = self.tokenize(new, truncate=truncate)
        for start in range(0, len(new), batch_size):
            rows = tokens[start : start + batch_size]
            # Attention is causal: tokens after the first end token have no influence.
            ends = rows.eq(self.tokenizer.end).int().argmax(1)
            out = self.model(rows[:, : int(ends.max()) + 1].to(self.device), ends.to(self.device)).float().cpu()
            for text, row in zip(new[start : start + batch_size], out, strict=True):
                found[text] = self._cache[text] = row.clone()
        if disk is not None:
            disk.put({text: found[text] for text in new})
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return torch.stack([found[text] for text in texts]) if texts else torch.empty(0, self.dim)

    @cached_property
    def _disk(self) -> TextCache | None:
        folder = cache_folder() if self._on_disk else None
        if folder is None:
            return None
        # Embeddings depend on the weights, the vocabulary and the length of a row.
        rest = (self.tokenizer.fingerprint, self.model.config)
        name = quick_checksum(self.model) + "-" + hashlib.sha256(repr(rest).encode()).hexdigest()[:8]
        return TextCache(folder / "text" / f"{name}.sqlite", self.dim)

    def embed_classes(self, classes: Sequence[Sequence[str]], templates: Sequence[str] | None = None) -> Tensor:
        """One embedding per class: the mean of the raw embeddings over every template and synonym.

        Args:
            classes: N classes, each a sequence of one or more names.
            templates: used instead of the encoder's own.

        Returns:
            (N, C) float32, not normalised.

        Source: published code, build_text_embedding (mean over templates before psi); the mean over synonyms is ours.
        """
        templates = self.templates if templates is None else check_templates(templates)
        texts = [template.format(name) for names in classes for name in names for template in templates]
        embeddings = self.embed(texts).split([len(names) * len(templates) for names in classes])
        return torch.stack([rows.mean(0) for rows in embeddings]) if embeddings else torch.empty(0, self.dim)
