"""A small source, a plan of it, and micro."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from talk2dino import Segmenter
from talk2dino.folder import FolderOptions
from talk2dino.scale.places import Place
from talk2dino.scale.plan import Plan, make_plan
from talk2dino.scale.segment_job import segment_settings, weights
from talk2dino.words.prompts import read_prompts

NAMES = ["sky", "grass", "ball"]
SIZES = [(41, 59), (59, 41), (67, 43)]


@pytest.fixture(scope="session")
def micro() -> Segmenter:
    return Segmenter.from_pretrained("micro", dtype="float32")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Eleven images of three sizes in two folders, one of them damaged."""
    folder = tmp_path / "source"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(10):
        height, width = SIZES[number % 3]
        pixels = np.kron(rng.integers(0, 255, (6, 8, 3)), np.ones((12, 9, 1)))[:height, :width].astype(np.uint8)
        Image.fromarray(pixels).save(folder / ("deep" if number % 2 else ".") / f"{number}.png")
    (folder / "broken.jpg").write_bytes(b"not an image")
    return folder


@pytest.fixture
def planned(source: Path, tmp_path: Path, micro: Segmenter):
    """Plan the source in a place and return both."""

    def plan(name: str = "plan", *, shard_size: int = 4, **values) -> tuple[Place, Plan]:
        options = FolderOptions(
            images=(str(source),), prompts=read_prompts(NAMES), model="micro", dtype="float32", **values
        )
        place = Place(tmp_path / name)
        return place, make_plan(
            place, job="segment", source=str(source), settings=segment_settings(options), weights=weights(micro), classes=NAMES,
            shard_size=shard_size,
        )  # fmt: skip

    return plan
