"""Jobs larger than one machine: a plan of shards, workers that make them, and receipts that say what is done."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "segment_dataset":  # needs Ray, which is loaded only for it
        from talk2dino.scale.ray.dataset import segment_dataset

        return segment_dataset
    raise AttributeError(f"module 'talk2dino.scale' has no attribute '{name}'")
