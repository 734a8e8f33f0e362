"""What is trained: a projection of the text side, of the vision side or of both, perhaps the temperature; the optimizer."""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from talk2dino.models.projection import Projection
from talk2dino.stages.heads import combine_heads
from talk2dino.training.loss import info_nce
from talk2dino.training.options import TrainOptions


class Aligner(nn.Module):
    """Brings captions (C dimensions) and images (D dimensions) into one space.

    Attributes:
        text_projection: C -> D for side "text", C -> shared for "both", None for "vision".
        vision_projection: D -> C for side "vision", D -> shared for "both", None for "text".
    """

    def __init__(self, options: TrainOptions, text_dim: int, vision_dim: int) -> None:
        super().__init__()
        self.options = options
        shared = {"text": vision_dim, "vision": text_dim, "both": options.shared_dim or vision_dim}[options.side]
        self.text_projection = None if options.side == "vision" else self._projection(text_dim, shared)
        self.vision_projection = None if options.side == "text" else self._projection(vision_dim, shared)
        self.log_scale = nn.Parameter(
            torch.tensor(math.log(1 / options.temperature)), requires_grad=options.learned_temperature
        )

    def _projection(self, width_in: int, width_out: int) -> Projection:
        hidden = (self.options.width or width_out,) * (self.options.depth - 1)
        return Projection(width_in, width_out, hidden=hidden, activation=self.options.activation)

    def text(self, captions: Tensor) -> Tensor:
        """(..., C) -> (..., shared)."""
        return captions if self.text_projection is None else self.text_projection(captions)

    def vision(self, features: Tensor) -> Tensor:
        """(..., D) -> (..., shared)."""
        return features if self.vision_projection is None else self.vision_projection(features)

    @property
    def scale(self) -> Tensor | float:
        """1 / temperature; at most 100 if it is learned, as in CLIP."""
        if self.options.learned_temperature:
            return self.log_scale.clamp(max=math.log(100)).exp()
        return 1 / self.options.temperature

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
        """The loss of a batch and the head chosen for each image (None for strategies that choose none).

        Args:
            images: (B, M, D) or (B, D), whichever feature the strategy reads.
            captions: (B, C) raw text embeddings.
            image_ids: (B,) the image of each caption; needed for ``mask_same_image``.
            noise: (B,) uniform in [0, 1); needed for the strategy "sampled".
            across_processes: use the captions of the other processes as negatives, too.
        """
        options, text = self.options, self.text(captions)
        pooled, chosen = combine_heads(
            options.strategy, self.vision(images), text, head_temperature=options.head_temperature, noise=noise
        )
        image_ids = image_ids if options.mask_same_image else None
        published = options.published_scale
        loss = info_nce(
            pooled, text, self.scale, image_ids=image_ids, published_scale=published, across_processes=across_processes
        )
        return loss, chosen


def make_optimizer(aligner: Aligner, options: TrainOptions) -> torch.optim.Optimizer:
    """Adam or AdamW over the trained parameters. The fused form has the same formula and reads memory fewer times."""
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
    trained = [parameter for parameter in aligner.parameters() if parameter.requires_grad]
    return kind(trained, lr=options.lr, weight_decay=options.weight_decay, fused=True)


class RateOptions(Protocol):
    """The settings that decide the learning rate."""

    @property
    def lr(self) -> float: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def schedule(self) -> Literal["constant", "cosine"]: ...


def set_rate(optimizer: torch.optim.Optimizer, options: RateOptions, step: int, total: int) -> None:
    """Set the learning rate of a step: linear warm-up, then constant or half a cosine down to 0."""
    rate = options.lr
    if step < options.warmup_steps:
        rate *= (step + 1) / options.warmup_steps
    elif options.schedule == "cosine":
        done = (step - options.warmup_steps) / max(1, total - options.warmup_steps)
        rate *= 0.5 * (1 + math.cos(math.pi * done))
    for group in optimizer.param_groups:
        group["lr"] = rate
