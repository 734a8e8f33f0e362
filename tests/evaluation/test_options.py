import math

import pytest

from talk2dino.errors import InputError
from talk2dino.evaluation.datasets import get_benchmark
from talk2dino.evaluation.options import ALL, CompareOptions, EvaluationOptions, parse_system
from talk2dino.io.settings import build_options


def refused(values, kind=EvaluationOptions):
    with pytest.raises(InputError) as caught:
        build_options(kind, values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "tiles"}, "option mode: Input should be 'slide', 'whole' or 'square' (got 'tiles')"),
        ({"treshold": 0.5}, "unknown option 'treshold'"),
        ({"limits": 5}, "unknown option 'limits'; did you mean limit?"),
        ({"benchmark": "voc-2"}, "unknown benchmark 'voc-2'; did you mean voc21 or voc20? known benchmarks"),
        ({"benchmark": ""}, "name a benchmark"),
        ({"method": "frida"}, "did you mean freeda"),
        ({"method_options": {"variant": "x"}}, "talk2dino has no option"),
        ({"benchmark": "voc21", "held_out": "all"}, "exist only for the world benchmark"),
        ({"prompts": "latin"}, "unknown prompt variant 'latin'"),
        ({"background": 0.5}, "world has no background class"),
        ({"benchmark": "voc21", "background": math.nan}, "option background: "),
        ({"benchmark": "voc21", "background": -math.inf}, "option background: "),
        ({"dtype": "int8"}, "option dtype: "),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"shard": (0, 2)}, "(i, n) with 1 <= i <= n; got (0, 2)"),
        ({"benchmark": "voc21", "method": "dino-clusters", "background": 0.4}, "dino-clusters has no background threshold"),
        ({"method": "dino-clusters", "clean": True}, "dino-clusters has no background cleaning"),
        ({"method": "dino-clusters", "mode": "slide"}, "dino-clusters has no mode slide"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused_without_a_model(values, message):
    assert message in refused({"benchmark": "world", **values})


def test_several_benchmarks():
    options = EvaluationOptions(benchmark="all,world,voc21", background=0.5)
    assert options.benchmark == (*ALL, "world")
    thresholds = {b.name: options.settings_on(b)["background"] for b in options.benchmarks}
    assert {name for name, value in thresholds.items() if value == 0.5} == {"voc21", "context60", "coco-object"}


def test_mode_and_cleaning_are_as_published():
    voc, world = get_benchmark("voc21"), get_benchmark("world")
    assert EvaluationOptions(benchmark="voc21").mode_on(voc) == "slide"
    assert EvaluationOptions(benchmark="world").mode_on(world) == "whole"
    assert EvaluationOptions(benchmark="voc21", method="dino-clusters").mode_on(voc) == "whole"
    assert EvaluationOptions(benchmark="voc21").clean_on(voc) is True
    assert EvaluationOptions(benchmark="voc21", clean=False).clean_on(voc) is False
    assert EvaluationOptions(benchmark="voc21", method="freeda").clean_on(voc) is False


def test_systems_of_a_comparison():
    assert parse_system("freeda:local_weight=1:nearest=5") == ("freeda", {"local_weight": 1, "nearest": 5})
    assert parse_system("dino-clusters:matching=image") == ("dino-clusters", {"matching": "image"})
    with pytest.raises(InputError, match="'5' is not NAME=VALUE"):
        parse_system("freeda:5")
    with pytest.raises(InputError, match="clip-dense has no option 'matching'"):
        parse_system("clip-dense:matching=image")
    options = CompareOptions(
        benchmark="voc21",
        systems="freeda,clip-dense",
        prototypes="folder",
        method_options={"clip-dense": {"background": 0.1}},
    )
    assert options.system("freeda") == ("freeda", {"prototypes": "folder"})
    assert options.system("clip-dense:variant=patches") == ("clip-dense", {"background": 0.1, "variant": "patches"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "pass IMAGE with --prompts, or --benchmark NAME"),
        ({"images": ["a.png"], "benchmark": "world"}, "but not both"),
        ({"images": ["a.png"]}, "an image needs --prompts"),
        ({"images": ["a.png"], "prompts": "sky", "synonyms": "file"}, "synonyms of an image belong into --prompts"),
        ({"images": ["a/x.png", "b/x.jpg"], "prompts": "sky"}, "two images have the same name"),
        ({"benchmark": "world", "systems": " ,"}, "name at least one system"),
        ({"benchmark": "world", "systems": "maskclip"}, "no method named 'maskclip'"),
        ({"benchmark": "world", "method_options": {"clpdense": {}}}, "did you mean clip-dense"),
        ({"benchmark": "world", "method_options": {"freeda": {"nearets": 2}}}, "freeda has no option 'nearets'"),
        ({"benchmark": "world", "held_out": "two"}, "option held_out: "),
        ({"benchmark": "world", "method_options": {"dino-clusters": {"matching": "x"}}}, "option matching: "),
    ],
)
def test_wrong_comparisons_are_refused_without_a_model(values, message):
    assert message in refused(values, CompareOptions)
