"""What is trained: psi on the text side, or its counterpart on the vision side, or both; and the temperature."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from talk2dino.models.projection import Projection
from talk2dino.stages.heads import combine_heads
from talk2dino.training.loss import info_nce
from talk2dino.training.options import FitConfig


class Aligner(nn.Module):
    """Brings captions (C) and pictures (D) into one space.

    Attributes:
        text_projection: C -> D for side "text", C -> shared for "both", None for "vision".
        vision_projection: D -> C for side "vision", D -> shared for "both", None for "text".
    """

    def __init__(self, config: FitConfig, text_dim: int, vision_dim: int) -> None:
        super().__init__()
        self.config = config
        shared = {"text": vision_dim, "vision": text_dim, "both": config.shared_dim or vision_dim}[config.side]
        self.text_projection = None if config.side == "vision" else self._projection(text_dim, shared)
        self.vision_projection = None if config.side == "text" else self._projection(vision_dim, shared)
        self.log_scale = nn.Parameter(
            torch.tensor(math.log(1 / config.temperature)), requires_grad=config.learned_temperature
        )

    def _projection(self, width_in: int, width_out: int) -> Projection:
        hidden = (self.config.width or width_out,) * (self.config.depth - 1)
        return Projection(width_in, width_out, hidden=hidden, activation=self.config.activation)

    def text(self, captions: Tensor) -> Tensor:
        """(..., C) -> (..., shared)."""
        return captions if self.text_projection is None else self.text_projection(captions)

    def vision(self, features: Tensor) -> Tensor:
        """(..., D) -> (..., shared)."""
        return features if self.vision_projection is None else self.vision_projection(features)

    @property
    def scale(self) -> Tensor | float:
        """1 / temperature; a learned one is kept at 100 or less, as CLIP does."""
        if self.config.learned_temperature:
            return self.log_scale.clamp(max=math.log(100)).exp()
        return 1 / self.config.temperature

    @property
    def temperature(self) -> float:
        return 1 / float(torch.as_tensor(self.scale).detach())

    def forward(
        self,
        images: Tensor,
        captions: Tensor,
        image_ids: Tensor | None = None,
        noise: Tensor | None = None,
        *,
        across_processes: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """The loss of a batch, and the head chosen for each picture (None for strategies that choose none).

        Args:
            images: (B, M, D) or (B, D), as the strategy reads.
            captions: (B, C) raw text embeddings.
            image_ids: (B,), needed to mask other captions of the same picture.
            noise: (B,) for the strategy "sampled".
            across_processes: whether the captions of the other processes are negatives too.
        """
        text = self.text(captions)
        stands, chosen = combine_heads(
            self.config.strategy, self.vision(images), text, head_temperature=self.config.head_temperature, noise=noise
        )
        loss = info_nce(
            stands,
            text,
            self.scale,
            image_ids=image_ids if self.config.mask_same_image else None,
            published_scale=self.config.published_scale,
            across_processes=across_processes,
        )
        return loss, chosen
