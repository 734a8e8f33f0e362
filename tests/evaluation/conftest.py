import numpy as np
import pytest


@pytest.fixture(scope="session")
def micro():
    from talk2dino.segmenter import Segmenter

    return Segmenter.from_pretrained("micro", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def prototypes(micro, tmp_path_factory):
    """FreeDA's prototypes of a few scenes."""
    from talk2dino.methods.prototype_build import build_prototypes, world_source

    folder = tmp_path_factory.mktemp("prototypes")
    build_prototypes(micro.towers, world_source(range(500_000, 500_020)), folder, what="20 scenes", index="exact")
    return folder


class Oracle:
    """A system that knows the truth: ``change`` may spoil it. It is asked as every other system is."""

    def __init__(self, truths, background, change=lambda labels: labels):
        self.truths = list(truths)
        self.background = background
        self.change = change
        self.asked = []

    def encode_text(self, prompts):
        self.prompts = prompts
        return prompts

    def segment_batch(self, images, prompts, **settings):
        from talk2dino.io.palette import class_palette
        from talk2dino.types import Segmentation

        self.asked.append((len(images), settings))
        names = (["background"] if self.background else []) + list(prompts)
        results = []
        for image in images:
            truth = next(t for t in self.truths if t.shape == image.shape[:2])
            labels = self.change(np.where(truth == 255, 0, truth).astype(np.int32))
            results.append(Segmentation(labels, tuple(names), class_palette(len(names))))
        return results


@pytest.fixture
def oracle():
    return Oracle
