"""The speed measurements: each measures what it says."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from talk2dino import Segmenter
from talk2dino.errors import InputError, OutputError, Talk2DinoError
from talk2dino.io.settings import build_options
from talk2dino.models.projection import Projection
from talk2dino.speed import agreement as agreement_module
from talk2dino.speed import end_to_end
from talk2dino.speed.clocks import matmul_rate, ratio, take_turns, vision_flops
from talk2dino.speed.figures import Figure, Note
from talk2dino.speed.plan import BenchOptions, make_plan
from talk2dino.speed.refinement import pamr
from talk2dino.speed.suite import MEASURES, run_bench
from talk2dino.speed.tables import Results, draw, first_settings, line
from talk2dino.speed.workload import class_names, photograph, random_parts, write_photographs
from talk2dino.stages import kernels
from talk2dino.stages.refine import refine

CPU = torch.device("cpu")


def test_flops_are_those_of_the_formula_and_the_known_216_of_a_vit_b():
    """Per block 12 D^2 multiply-adds in linear layers and 2 T D in attention for each of the T tokens of width D."""
    patches, width, blocks = 8 * 10, 384, 12
    tokens = patches + 5  # CLS and four registers
    expected = 2 * tokens * blocks * (12 * width**2 + 2 * tokens * width) + 2 * patches * 3 * 14**2 * width
    assert vision_flops(random_parts("random-vits").vision, 112, 140) == pytest.approx(expected, rel=0.01)
    assert vision_flops(random_parts("random-vitb").vision, 448, 448) == pytest.approx(216e9, rel=0.01)


def test_ratios_are_of_the_same_turn():
    times = {"a": [1.0, 20.0, 3.0], "b": [2.0, 10.0, 1.0]}
    assert ratio(times, "a", "b") == 2.0
    calls = []
    works = {"slow": lambda: (calls.append("s"), time.sleep(0.02)), "fast": lambda: calls.append("f")}
    measured = take_turns(works, 3, CPU)
    assert calls == ["s", "f"] * 4  # one call more than turns: the first is not measured
    assert len(measured["slow"]) == 3
    assert min(measured["slow"]) >= 0.02 > max(measured["fast"])
    calls.clear()
    take_turns(works, 1, CPU, warm=False)
    assert calls == ["s", "f"]


def test_matrix_products_have_a_plausible_rate():
    assert 1e9 < matmul_rate(torch.float32, CPU, turns=1) < 1e15


def test_the_baseline_of_the_refinement_is_the_same_function():
    masks, pixels = torch.rand(1, 3, 40, 52), torch.rand(1, 3, 40, 52) * 255
    assert (pamr(masks, pixels) - refine(masks, pixels)).abs().max() < 1e-4


def test_images_and_names(tmp_path: Path):
    paths = write_photographs(tmp_path, 34, (48, 64))
    assert len(set(paths)) == 34
    with Image.open(paths[33]) as last:
        assert last.size == (64, 48)
    assert (photograph(20, 30, seed=1) != photograph(20, 30, seed=2)).any()
    assert len(set(class_names(150))) == 150


# --- sections --------------------------------------------------------------------------------------------------------


def test_the_pipeline_runs_what_it_times(monkeypatch):
    """Each turn, and one before them, segments JPEGs with and without refinement."""
    calls: list[tuple[int, bool]] = []
    true = Segmenter.segment_batch

    def segment_batch(self, images, prompts, **options):
        calls.append((len(images), options["refine"]))
        return true(self, images, prompts, **options)

    monkeypatch.setattr(Segmenter, "segment_batch", segment_batch)
    found: list[Figure | Note] = []
    steps: list[tuple[int, int, str]] = []
    options = BenchOptions(
        model="micro", device="cpu", turns=2, batches=(1, 3), sections=("machine", "pipeline"), dtypes=("float32",), classes=4
    )  # fmt: skip
    results = run_bench(options, on_result=found.append, progress=lambda *step: steps.append(step))
    assert steps == [(1, 2, "machine"), (2, 2, "pipeline")]
    assert calls == [(1, False), (1, True)] * 3 + [(3, False), (3, True)] * 3
    assert [x for x in found if isinstance(x, Figure)] == results.figures
    assert {figure.section for figure in results.figures} == {"machine", "pipeline"}
    assert all(figure.value > 0 for figure in results.figures)
    whole = [f for f in results.figures if f.what == "JPEG to labels / vision model"]
    assert [f.settings["batch"] for f in whole] == [1, 3]
    assert not results.failed


def test_a_pipeline_without_labels_gives_no_figure(monkeypatch):
    monkeypatch.setattr(Segmenter, "segment_batch", lambda *_, **__: [])
    results = run_bench(BenchOptions(model="micro", turns=1, batches=(2,), sections=("pipeline",)))
    assert results.failed
    assert "gave no labels" in results.notes[-1].text
    assert not results.figures


def test_goals_are_for_vit_b_and_twenty_classes():
    def goals(model: str, dtype: str, classes: int = 20) -> list[tuple[str, float] | None]:
        plan = make_plan(BenchOptions(dtypes=(dtype,), classes=classes), CPU)
        times = {"vision": [1.0], "whole": [1.0], "refined": [1.0]}
        return [f.goal for f in end_to_end._figures(plan, model, plan.pairs[0], 1, times, 1, 1.0)]

    assert goals("random-vitb", "bfloat16") == [None, ("<=", 2.0), ("<=", 1.15), ("<=", 1.8)]
    assert goals("random-vitb", "float32") == [None, None, ("<=", 1.15), ("<=", 1.8)]
    assert goals("random-vits", "bfloat16") == [None] * 4
    assert goals("random-vitb", "bfloat16", 7) == [None] * 4


def test_agreement_with_the_reference_path(monkeypatch):
    monkeypatch.setattr(agreement_module, "SCENES", 2)
    true, plain = agreement_module.labels_of, []

    def labels_of(*arguments):
        plain.append(kernels.cpu_kernel("labels", "label_cpu") is None)
        return true(*arguments)

    monkeypatch.setattr(agreement_module, "labels_of", labels_of)
    options = BenchOptions(sections=("agreement",), compared_engines=("torch",))  # random weights: micro stands in
    results = run_bench(options)
    assert plain[0]  # the reference
    if kernels._no_numba() is None:
        assert plain[1:] == [False, False]
    single, half = results.figures
    assert (single.settings["dtype"], single.goal) == ("float32", (">=", 0.999))
    assert (half.settings["dtype"], half.goal) == ("bfloat16", (">=", 0.98))
    assert 0.999 <= single.value <= 1
    assert 0.98 <= half.value <= 1
    assert "micro" in single.what


def test_agreement_sees_a_difference_and_what_is_not_installed(monkeypatch):
    monkeypatch.setattr(agreement_module, "SCENES", 1)
    calls = []

    def refine_wrongly(maps, pixels):
        calls.append(len(maps))
        return maps if len(calls) == 1 else maps.flip(1)  # the reference is right

    monkeypatch.setattr("talk2dino.pipeline.refine_maps", refine_wrongly)

    def check(engine, device, dtype):
        if engine == "onnx":
            raise InputError("onnx is not here")

    monkeypatch.setattr(agreement_module, "check_engine", check)
    results = run_bench(BenchOptions(sections=("agreement",), compared_engines=("torch", "onnx")))
    assert all(figure.value < 0.9 and figure.reached is False for figure in results.figures)
    assert [note.text for note in results.notes if note.section == "agreement"] == [
        "onnx in float32 is skipped: onnx is not here"
    ]


def test_stages_also_of_a_model_with_a_vision_projection(monkeypatch):
    def with_vision_projection(model, **options):
        segmenter = Segmenter.from_pretrained(model, **options)
        torch.manual_seed(0)
        segmenter.towers.vision_projection = Projection(segmenter.vision.dim, 40).eval()
        segmenter.towers.projection = Projection(segmenter.text.dim, 40).eval()
        return segmenter

    monkeypatch.setattr("talk2dino.speed.workload.load", with_vision_projection)
    results = run_bench(BenchOptions(model="micro", turns=1, sections=("stages",), classes=3))
    names = [figure.what for figure in results.figures]
    assert not results.failed, results.notes
    for stage in (
        "JPEG",
        "windows, cut",
        "averaging",
        "vision model",
        "similarity",
        "cleaning",
        "refinement",
        "argmax",
    ):
        assert any(stage in name for name in names), stage


def test_refinement_gives_a_ratio_and_a_difference_with_a_goal(monkeypatch):
    options = BenchOptions(sections=("refinement",), plain_classes=(3,), refined_size=40)
    times, difference = run_bench(options).figures
    assert times.value > 1
    assert "medians of 3 turns" in times.detail
    assert difference.goal == ("<=", 1e-4)
    assert difference.reached
    monkeypatch.setattr("talk2dino.speed.refinement.refine", lambda masks, pixels: masks)
    assert run_bench(options).figures[1].reached is False


def test_prompts_are_cached_in_memory_and_on_disk_in_a_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TALK2DINO_CACHE", str(tmp_path / "own"))
    for _ in range(2):  # the second run does not use the first one's cache
        figures = {
            figure.what: figure.value for figure in run_bench(BenchOptions(model="micro", sections=("text",))).figures
        }
        assert figures["first time / cached in memory"] > 2
        assert figures["first time / cached on disk"] > 1.2
    texts = list(tmp_path.rglob("*.sqlite"))
    assert not texts


def test_the_folder_section(monkeypatch):
    options = BenchOptions(model="micro", turns=1, batches=(2,), sections=("folder",), folder_seconds=0.1)
    results = run_bench(options)
    assert not results.failed
    assert [figure.unit for figure in results.figures] == ["share", "share"]
    assert all(0.01 < figure.value < 3 for figure in results.figures)
    assert [figure.goal for figure in results.figures] == [(">=", 0.85), None]


# --- plans and reports -----------------------------------------------------------------------------------------------


def test_impossible_pairs_become_notes(monkeypatch):
    monkeypatch.setattr("talk2dino.device.cpu_has_bfloat16", lambda: True)
    plan = make_plan(BenchOptions(dtypes=("auto", "bfloat16"), engines=("torch", "onnx")), CPU)
    assert [str(pair) for pair in plan.pairs] == ["torch in bfloat16", "onnx in float32"]
    assert any("onnx in bfloat16 is skipped" in note.text for note in plan.notes)
    with pytest.raises(InputError, match="nothing to measure: onnx in bfloat16"):
        make_plan(BenchOptions(dtypes=("bfloat16",), engines=("onnx",)), CPU)


def test_a_plan_knows_its_device():
    plan = make_plan(BenchOptions(), CPU)
    assert (plan.batches, plan.models, plan.folder_models) == ((1, 4), ("random-vitb",), ("micro", "random-vitb"))
    if not torch.cuda.is_available():
        assert any("has no GPU" in note.text for note in plan.notes)
    gpu = make_plan(BenchOptions(dtypes=("bfloat16",)), torch.device("cuda"))
    assert (gpu.batches, gpu.models) == ((1, 32), ("random-vitb", "random-vitl"))


def test_results_are_written_after_each_section_also_if_it_fails(monkeypatch, tmp_path: Path):
    def fails(plan):
        yield Figure("pipeline", "first", 1.0, "x")
        raise Talk2DinoError("the child crashed")

    def crashes(plan):
        yield Figure("stages", "second", 2.0, "x")
        raise KeyError("a mistake")

    def written() -> list[str]:
        return [figure["what"] for figure in json.loads((tmp_path / "bench.json").read_text())["figures"]]

    monkeypatch.setitem(MEASURES, "pipeline", fails)
    monkeypatch.setitem(MEASURES, "stages", crashes)
    after: list[list[str]] = []
    with pytest.raises(KeyError):
        run_bench(
            BenchOptions(sections=("pipeline", "stages", "text")), out=tmp_path, progress=lambda *_: after.append(written())
        )  # fmt: skip
    assert after == [["first"]]
    assert written() == ["first", "second"]
    results = run_bench(BenchOptions(sections=("pipeline",)))
    assert results.failed
    assert "the child crashed" in results.notes[-1].text


def test_an_output_folder_that_cannot_be_written_is_reported_before_measuring(monkeypatch, tmp_path: Path):
    monkeypatch.setitem(MEASURES, "machine", lambda plan: pytest.fail("measured"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="part of the path is a file"):
        run_bench(BenchOptions(sections=("machine",)), out=tmp_path / "file" / "out")


def test_a_figure_is_shown_with_its_goal(tmp_path: Path):
    good = Figure("pipeline", "whole", 1.1, "x", ("<=", 1.15), {"dtype": "float32", "batch": 4})
    bad = Figure("folder", "folder", 0.7, "share", (">=", 0.85))
    assert good.reached
    assert bad.reached is False
    assert Figure("text", "prompts", 3.0, "ms").reached is None
    assert line(good) == "       1.1 x          whole (float32, batch 4)  [reached: <= 1.15]"
    assert line(bad) == "      70.0 %          folder  [MISSED: >= 85]"
    results = Results(BenchOptions(), CPU)
    for found in (bad, good, Note("machine", "no GPU"), Note("text", "a reason", failed=True)):
        results.add(found)
    assert results.table().splitlines() == [
        "machine", line(results.notes[0]), "pipeline", line(good), "text", "    FAILED a reason", "folder", line(bad)
    ]  # fmt: skip
    content = results.record()
    assert content["machine"]["gpu"] is None
    assert content["notes"][0] == {"section": "machine", "text": "no GPU", "failed": False}
    assert content["figures"][0] | {"reached": False, "unit": "share"} == content["figures"][0]
    assert results.title.startswith("random-vitb on ")
    pytest.importorskip("matplotlib")
    assert draw(results, tmp_path / "bench.png")
    with Image.open(tmp_path / "bench.png") as image:
        assert image.width > 500
    without = Results(BenchOptions(), CPU, [Figure("text", "prompts", 3.0, "ms")])
    assert not draw(without, tmp_path / "none.png")


def test_the_chart_shows_each_stage_once():
    figures = [Figure("stages", n, 1.0, "ms", None, {"dtype": d}) for d in ("float32", "bfloat16") for n in "ab"]
    assert first_settings(figures) == figures[:2]
    assert first_settings([]) == []


def test_wrong_options_are_refused():
    def refused(**values):
        with pytest.raises(InputError) as error:
            build_options(BenchOptions, values)
        return str(error.value)

    assert refused(sections=("stage",)).startswith(
        "unknown section 'stage'; did you mean stages?; accepted: machine, pipeline"
    )
    assert "greater than or equal to 1 (got 0)" in refused(batches=(0,))
    assert refused(engines=()).startswith("option engines: ")
    assert refused(pictures=3).startswith("unknown option 'pictures'")
    with pytest.raises(InputError, match="unknown dtype 'float8'; accepted: auto"):
        run_bench(BenchOptions(dtypes=("float8",), sections=("machine",)))
    with pytest.raises(InputError, match="unknown engine 'foo'"):
        run_bench(BenchOptions(engines=("torch", "foo"), sections=("machine",)))
