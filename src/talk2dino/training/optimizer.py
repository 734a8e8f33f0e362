"""The optimizer and its learning rate."""

from __future__ import annotations

import math

import torch

from talk2dino.training.aligner import Aligner
from talk2dino.training.options import TrainOptions


def make_optimizer(aligner: Aligner, options: TrainOptions) -> torch.optim.Optimizer:
    """Adam or AdamW over the trained parameters. The fused form has the same formula and reads memory fewer times."""
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
    trained = [parameter for parameter in aligner.parameters() if parameter.requires_grad]
    return kind(trained, lr=options.lr, weight_decay=options.weight_decay, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, options: TrainOptions, step: int, total: int) -> None:
    """Set the learning rate of a step: linear warm-up, then constant or half a cosine down to 0."""
    rate = options.lr
    if step < options.warmup_steps:
        rate *= (step + 1) / options.warmup_steps
    elif options.schedule == "cosine":
        done = (step - options.warmup_steps) / max(1, total - options.warmup_steps)
        rate *= 0.5 * (1 + math.cos(math.pi * done))
    for group in optimizer.param_groups:
        group["lr"] = rate
