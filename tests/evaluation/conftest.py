from types import SimpleNamespace

import numpy as np
import pytest
import torch

from talk2dino.methods.base import Facts
from talk2dino.types import Segmentation, TextFeatures


@pytest.fixture(scope="session")
def micro():
    from talk2dino.segmenter import Segmenter

    return Segmenter.from_pretrained("micro", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def prototypes(micro, tmp_path_factory):
    """FreeDA's prototypes of a few scenes."""
    from talk2dino.methods.prototype_build import build_prototypes, world_source

    folder = tmp_path_factory.mktemp("prototypes")
    build_prototypes(micro.towers, world_source(range(500_000, 500_020)), folder)
    return folder


class Oracle:
    """A segmenter that knows the truth; ``change`` may spoil it. ``asked`` holds (images, settings) of each batch."""

    name, device, dtype, engine = "oracle", "cpu", torch.float32, "torch"
    config = SimpleNamespace(variant="published", source={})
    text = SimpleNamespace(templates=("{}",))
    towers = SimpleNamespace(name="oracle", checksums=lambda names: {})

    def __init__(self, truths, change=lambda labels: labels):
        self.truths, self.change, self.asked = list(truths), change, []
        self.method = SimpleNamespace(
            name="oracle", facts=Facts("knows the truth", towers=()), threshold=0.5, threshold_range=(0.0, 1.0),
            threshold_source="oracle", options={}, fingerprints=dict, size=448, towers=self.towers,
        )  # fmt: skip

    def with_method(self, name, **options):
        return self

    def encode_text(self, prompts):
        self.prompts = prompts
        return TextFeatures(tuple(prompts), torch.zeros(len(prompts), 1))

    def segment_batch(self, images, text, **settings):
        self.asked.append((len(images), settings))
        background = ["background"] if settings["background"] is not None else []
        names = (*background, *text.names)
        results = []
        for image in images:
            truth = next(t for t in self.truths if t.shape == image.shape[:2])
            labels = self.change(np.where(truth == 255, 0, truth).astype(np.int32))
            results.append(Segmentation(labels, names, np.zeros((len(names), 3), np.uint8)))
        return results


@pytest.fixture
def oracle():
    return Oracle
