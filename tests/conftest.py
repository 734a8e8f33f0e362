"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["TALK2DINO_CACHE"] = "off"  # tests that are about the cache name a folder of their own

import numpy as np
import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def reference():
    """(tensors, outputs) of a golden checkpoint: what the published code gives for it."""
    from talk2dino.models.published import read_tensors

    def load(name: str):
        outputs = np.load(DATA / "reference" / f"{name}_outputs.npz")
        return read_tensors(DATA / "reference" / f"{name}.safetensors"), {key: outputs[key] for key in outputs}

    return load


@pytest.fixture(scope="session")
def protocol_resize():
    """The published evaluation's resize, written out: OpenCV's bilinear on uint8, four pixels, no antialiasing."""

    def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        def places(length: int, count: int):
            where = np.clip((np.arange(count) + 0.5) * length / count - 0.5, 0, length - 1)
            low = np.floor(where).astype(int)
            return low, np.minimum(low + 1, length - 1), where - low

        top, bottom, down = places(image.shape[0], size[0])
        left, right, across = places(image.shape[1], size[1])
        across, down = across[None, :, None], down[:, None, None]
        upper = image[top][:, left] * (1 - across) + image[top][:, right] * across
        lower = image[bottom][:, left] * (1 - across) + image[bottom][:, right] * across
        return np.floor(upper * (1 - down) + lower * down + 0.500001).astype(np.uint8)

    return resize
