"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ["TALK2DINO_CACHE"] = "off"  # tests that are about the cache name a folder of their own

import numpy as np
import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def reference():
    """(tensors, outputs) of a golden checkpoint: what the published code gives for it."""
    from talk2dino.models.weights import read_tensors

    def load(name: str):
        outputs = np.load(DATA / "reference" / f"{name}_outputs.npz")
        return read_tensors(DATA / "reference" / f"{name}.safetensors"), {key: outputs[key] for key in outputs}

    return load


@pytest.fixture(scope="session")
def protocol_resize():
    """The published evaluation's resize, written out: OpenCV's bilinear on uint8."""
    from opencv import opencv_resize

    return opencv_resize
