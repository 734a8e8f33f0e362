import numpy as np
import pytest
import torch
import torch.nn.functional as F
from miniature import make_miniature

from talk2dino.errors import InputError, PromptError
from talk2dino.evaluation.datasets import BENCHMARKS, get_benchmark
from talk2dino.evaluation.options import EvaluationOptions
from talk2dino.evaluation.protocol import run_benchmark
from talk2dino.evaluation.runs import evaluate
from talk2dino.methods import method_class
from talk2dino.world import CLASS_NAMES, render, sample_scene

EIGHT = [name for name, benchmark in BENCHMARKS.items() if benchmark.on_disk]


def run(segmenter, folder=None, progress=None, **values):
    options = EvaluationOptions(**values)
    return run_benchmark(segmenter, options.benchmarks[0], options, folder=folder, progress=progress)


# --- windows ---------------------------------------------------------------------------------------------------------


def literal_protocol(resize, segmenter, image, names, channel=None, **settings):
    """mmsegmentation's slide inference, written out: one window at a time, counted pixel by pixel."""
    window = segmenter.method.size
    stride = window // 2
    height, width = image.shape[:2]
    scale = min(window * 2048 / 448 / max(height, width), window / min(height, width))
    resized = resize(image, (int(height * scale + 0.5), int(width * scale + 0.5)))
    rows, columns = resized.shape[:2]
    total = torch.zeros(len(names) + (channel is not None), rows, columns)
    count = torch.zeros(1, rows, columns)
    y = 0
    while True:
        bottom = min(y + window, rows)
        top = max(bottom - window, 0)
        x = 0
        while True:
            right = min(x + window, columns)
            left = max(right - window, 0)
            crop = resized[top:bottom, left:right].copy()
            assert crop.shape[:2] == (window, window)
            scores = segmenter.segment(crop, names, mode="square", return_scores=True, **settings).scores
            if channel is not None:  # the background: a constant in front
                scores = np.concatenate([np.full((1, window, window), channel, np.float32), scores])
            total[:, top:bottom, left:right] += torch.from_numpy(scores)
            count[:, top:bottom, left:right] += 1
            if right == columns:
                break
            x += stride
        if bottom == rows:
            break
        y += stride
    averaged = (total / count)[None]
    return F.interpolate(averaged, (height, width), mode="bilinear", align_corners=False)[0].numpy()


@pytest.mark.parametrize(("clean", "refine"), [(False, False), (True, False), (True, True)])
def test_slide_equals_the_literal_protocol(micro, protocol_resize, clean, refine):
    image = render(sample_scene(900_005, aspect=211 / 97), 97).image
    names = list(CLASS_NAMES[:5])
    expected = literal_protocol(protocol_resize, micro, image, names, 0.55, clean=clean, refine=refine)
    found = micro.segment(image, names, mode="slide", background=0.55, clean=clean, refine=refine, return_scores=True)
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)
    assert (found.labels == expected.argmax(0)).mean() > 0.9999  # ties apart
    assert 0 < (found.labels == 0).mean() < 1


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("method", ["clip-dense", "freeda"])
def test_the_other_systems_slide_alike(micro, prototypes, protocol_resize, method, refine):
    image = render(sample_scene(900_006, aspect=197 / 101), 101).image
    own = {"prototypes": prototypes, "nearest": 5} if method == "freeda" else {}
    segmenter = micro.with_method(method, **own)
    names = ["sky", "grass", "ball"]
    expected = literal_protocol(protocol_resize, segmenter, image, names, refine=refine)
    found = segmenter.segment(image, names, mode="slide", refine=refine, return_scores=True)
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)


def test_windows_of_several_images_share_forward_passes(micro, monkeypatch):
    segmenter = micro.with_method("clip-dense")
    images = [render(sample_scene(900_010 + i, aspect=aspect), 90).image for i, aspect in enumerate((4 / 3, 3 / 4, 2))]
    names = ["sky", "grass"]
    alone = [segmenter.segment(image, names, mode="slide", return_scores=True) for image in images]
    sizes, encode = [], segmenter.method.encode_pixels
    monkeypatch.setattr(
        segmenter.method, "encode_pixels", lambda pixels: (sizes.append(len(pixels)), encode(pixels))[1]
    )
    together = segmenter.segment_batch(images, names, mode="slide", return_scores=True)
    assert sizes == [7]  # two, two and three windows
    for one, result in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.scores, result.scores, atol=1e-5)


# --- what each benchmark asks for ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EIGHT)
def test_perfect_segmenter_scores_100_and_gets_the_protocol(tmp_path, oracle, name):
    truth = make_miniature(name, tmp_path)
    benchmark = BENCHMARKS[name]
    segmenter = oracle(truth.values())
    outcome = run(segmenter, benchmark=name, data=tmp_path, batch_size=2)
    assert outcome.metrics.miou == 1.0
    assert len(outcome.records) == 3
    assert [count for count, _ in segmenter.asked] == [2, 1]
    assert list(segmenter.prompts) == list(benchmark.prompts)
    assert segmenter.asked[0][1] == {
        "mode": "slide", "clean": name in ("voc21", "coco-object"), "refine": False,
        "background": 0.5 if benchmark.background else None,
    }  # fmt: skip


def test_all_background_and_all_ignored_images(tmp_path, oracle):
    truth = make_miniature("voc21", tmp_path)
    wrong = oracle(truth.values(), lambda labels: np.full_like(labels, 3))
    outcome = run(wrong, benchmark="voc21", data=tmp_path)
    ignored = outcome.records[2]
    assert (ignored.counts.size, ignored.miou) == (0, None)
    assert outcome.records[1].counts.tolist() == [[0, 3, 61 * 43]]


def test_overriding_the_protocol(tmp_path, oracle):
    truth = make_miniature("voc21", tmp_path)
    segmenter = oracle(truth.values())
    voc = {"benchmark": "voc21", "data": tmp_path}
    values = {"mode": "whole", "background": 0.4, "clean": False, "refine": True}
    assert len(run(segmenter, **voc, limit=2, **values).records) == 2
    assert segmenter.asked == [(2, values)]
    file = tmp_path / "synonyms.txt"
    file.write_text("cat = kitten | cat\n")
    run(segmenter, **voc, synonyms=file)
    assert segmenter.prompts["cat"] == ["kitten", "cat"]
    assert segmenter.prompts["dog"] == ["dog"]
    file.write_text("kat = cat\n")
    with pytest.raises(PromptError, match="voc21 lacks: kat"):
        run(segmenter, **voc, synonyms=file)
    with pytest.raises(InputError, match=r"must be from 0 to 1; got -0\.5"):
        run(segmenter, **voc, background=-0.5)


def test_world_options(oracle):
    scenes = [render(sample_scene(10_000_000 + i, held_out=True)) for i in range(2)]
    segmenter = oracle([scenes[0].labels])
    run(segmenter, benchmark="world", prompts="upper", held_out="one", limit=1)
    assert segmenter.prompts["sky"] == ["SKY"]
    assert segmenter.asked == [(1, {"mode": "whole", "clean": False, "refine": False, "background": None})]


def test_evaluation_runs_in_float32_unless_told(monkeypatch):
    asked = []

    def load(model, **options):
        asked.append(options["dtype"])
        raise KeyboardInterrupt

    monkeypatch.setattr("talk2dino.segmenter.Segmenter.from_pretrained", load)
    for more in ({}, {"dtype": "auto"}):
        with pytest.raises(KeyboardInterrupt):
            evaluate(EvaluationOptions(benchmark="world", limit=1, **more))
    assert asked == ["float32", "auto"]


def test_freeda_uses_its_published_superpixels_on_each_benchmark(micro, prototypes, tmp_path):
    make_miniature("coco-stuff", tmp_path)
    values = {"data": tmp_path, "limit": 1, "mode": "square", "method": "freeda"}
    own = {"prototypes": str(prototypes), "nearest": 5}
    config = run(micro, benchmark="coco-stuff", method_options=own, **values).config
    assert config["system"]["superpixels"] == {"scale": 100, "sigma": 1.0, "min_size": 100}
    config = run(micro, benchmark="coco-stuff", method_options={**own, "min_size": 20}, **values).config
    assert config["system"]["superpixels"]["min_size"] == 20
    published = {name: method_class("freeda").benchmark_options(name) for name in EIGHT}
    assert {name: options for name, options in published.items() if options} == {
        "voc20": {"sigma": 0.7}, "coco-stuff": {"min_size": 100},
        "cityscapes": {"scale": 20, "sigma": 0.5, "min_size": 50},
    }  # fmt: skip


def test_talk2dino_is_15_points_ahead_of_dense_clip(micro):
    world = {"benchmark": "world", "limit": 20}
    figures = {name: run(micro, method=name, **world).metrics.miou for name in ("talk2dino", "clip-dense")}
    assert figures["talk2dino"] > figures["clip-dense"] + 0.15
    assert figures["talk2dino"] > 0.6


def test_progress_counts_the_images_of_all_benchmarks(tmp_path, oracle):
    truths = [labels for name in ("voc21", "ade20k") for labels in make_miniature(name, tmp_path).values()]
    seen = []
    options = EvaluationOptions(benchmark="voc21,ade20k", data=tmp_path, batch_size=2)
    result = evaluate(
        options, segmenter=oracle(truths), progress=lambda done, total, note="": seen.append((done, total, note))
    )
    assert [one[:2] for one in seen] == [(2, 6), (3, 6), (5, 6), (6, 6)]
    assert seen[0][2].startswith("voc21, mIoU ")
    assert [report.config["benchmark"] for report in result.reports] == ["voc21", "ade20k"]
    assert get_benchmark("voc21").mode == "slide"
