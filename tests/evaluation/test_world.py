import numpy as np
import pytest

from talk2dino.errors import InputError
from talk2dino.evaluation.world import PROMPT_VARIANTS, evaluate_world, held_out_seeds, world_prompts
from talk2dino.types import Segmentation
from talk2dino.world import CLASS_NAMES, render, sample_scene


def truth_of(image: np.ndarray, held_out: bool = False) -> np.ndarray:
    for seed in held_out_seeds(3):
        drawn = render(sample_scene(seed, held_out=held_out), image.shape[0])
        if np.array_equal(drawn.image, image):
            return drawn.labels
    raise AssertionError("not one of the first three test scenes")


def test_perfect_and_constant_predictor():
    perfect = evaluate_world(truth_of, held_out_seeds(3), height=48)
    assert (perfect.miou, perfect.backgrounds, perfect.objects, perfect.scenes) == (1.0, 1.0, 1.0, 3)
    constant = evaluate_world(lambda image: np.full(image.shape[:2], 15), held_out_seeds(3), height=48)
    assert constant.backgrounds == 0.0
    assert constant.miou < 0.1


def test_held_out_colours_are_drawn():
    seen = []

    def remember(image: np.ndarray) -> np.ndarray:
        seen.append(image)
        return np.zeros(image.shape[:2], int)

    evaluate_world(remember, held_out_seeds(2), height=48)
    evaluate_world(remember, held_out_seeds(2), height=48, held_out=True)
    assert not np.array_equal(seen[0], seen[2])
    assert np.array_equal(truth_of(seen[2], held_out=True), truth_of(seen[0]))  # same shapes, other colours


def test_method_object_gets_prompts_and_options():
    calls = []

    class Method:
        def segment(self, image, prompts, **options):
            calls.append((tuple(prompts), options))
            return Segmentation(np.zeros(image.shape[:2], np.uint8), CLASS_NAMES, np.zeros((16, 3), np.uint8))

    evaluate_world(Method(), held_out_seeds(1), prompts=world_prompts("chinese"), height=48, refine=True)
    assert calls == [(tuple(world_prompts("chinese")), {"refine": True})]


def test_prompt_variants_differ_and_keep_the_order():
    ways = {variant: world_prompts(variant) for variant in PROMPT_VARIANTS}
    assert len({tuple(way) for way in ways.values()}) == len(PROMPT_VARIANTS)
    assert ways["upper"][0] == "SKY"
    assert ways["chinese"][8] == "球"
    assert ways["synonyms"][14] == "automobile"
    with pytest.raises(InputError, match="upper"):
        world_prompts("shouted")
    with pytest.raises(InputError, match="16 classes; got 2"):
        evaluate_world(truth_of, held_out_seeds(1), prompts=["a", "b"])
