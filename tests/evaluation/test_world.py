import numpy as np
import pytest

from talk2dino.errors import InputError
from talk2dino.evaluation.datasets import get_benchmark, open_benchmark, world_samples
from talk2dino.evaluation.options import EvaluationOptions
from talk2dino.evaluation.protocol import open_samples, run_benchmark
from talk2dino.evaluation.report import make_report
from talk2dino.evaluation.world import PROMPT_VARIANTS, held_out_seeds, world_prompts


def test_perfect_and_constant_predictor(oracle):
    truths = [sample.load()[1] for sample in world_samples(held_out_seeds(1))]
    options = EvaluationOptions(benchmark="world", limit=1)
    for change, background, objects in (
        (lambda labels: labels, 100.0, 100.0),
        (lambda labels: labels * 0 + 15, 0.0, 0.0),
    ):
        outcome = run_benchmark(oracle(truths, change), get_benchmark("world"), options)
        details = make_report(outcome.config, outcome.metrics, 1).details
        assert details == {"background_miou": background, "object_miou": objects}


def test_held_out_colours_change_the_image_and_not_the_truth():
    shown = {}
    for unseen in (None, "one", "all"):
        options = EvaluationOptions(benchmark="world", held_out=unseen, limit=2)
        shown[unseen] = open_samples(options, get_benchmark("world"))[1].load()
    for image, truth in (shown["one"], shown["all"]):
        assert not np.array_equal(image, shown[None][0])
        assert np.array_equal(truth, shown[None][1])
    assert not np.array_equal(shown["one"][0], shown["all"][0])


def test_the_number_of_scenes():
    benchmark, samples = open_benchmark("world")
    assert len(samples) == 300
    assert [sample.name for sample in samples[:2]] == ["10000000", "10000001"]
    assert len(open_samples(EvaluationOptions(benchmark="world", limit=307), benchmark)) == 307


def test_prompt_variants_differ_and_keep_the_order():
    ways = {variant: world_prompts(variant) for variant in PROMPT_VARIANTS}
    assert len({tuple(way) for way in ways.values()}) == len(PROMPT_VARIANTS) == 7
    assert ways["upper"][0] == "SKY"
    assert ways["chinese"][8] == "球"
    assert ways["synonyms"][14] == "automobile"
    with pytest.raises(InputError, match="unknown prompt variant 'shouted'"):
        world_prompts("shouted")
