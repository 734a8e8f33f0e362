"""The speed measurements: that they measure what they say, and that the verb works as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from talk2dino.bench.measure import matmul_rate, ratio, take_turns, vision_flops
from talk2dino.bench.memory import in_own_process
from talk2dino.bench.parts import class_names, photograph, random_parts, write_photographs
from talk2dino.bench.plain_pamr import pamr
from talk2dino.bench.report import draw, line, table
from talk2dino.bench.run import BenchOptions, Figure, run_bench
from talk2dino.errors import InputError
from talk2dino.stages.refine import refine

CPU = torch.device("cpu")


def test_flops_are_those_that_torch_counts_and_the_known_216_of_a_vit_b():
    vision = random_parts("random-vits").vision
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        vision(torch.zeros(1, 3, 112, 140))
    # torch's counter leaves out attention where a fused kernel computes it on the CPU; CLS logits are ours alone.
    counted = counter.get_total_flops()
    tokens, width, blocks = 8 * 10 + 5, 384, 12
    attention = 4 * tokens**2 * width * blocks
    ours = vision_flops(vision, 112, 140)
    assert min(abs(ours - counted), abs(ours - attention - counted)) < 0.01 * ours
    assert vision_flops(random_parts("random-vitb").vision, 448, 448) == pytest.approx(216e9, rel=0.01)


def test_ratios_are_of_the_same_turn():
    times = {"a": [1.0, 20.0, 3.0], "b": [2.0, 10.0, 1.0]}
    assert ratio(times, "a", "b") == 2.0
    calls = []
    measured = take_turns(
        {"slow": lambda: (calls.append("s"), time.sleep(0.02)), "fast": lambda: calls.append("f")}, 3, CPU
    )
    assert calls == ["s", "f"] * 4  # one call more than turns: the first is not measured
    assert len(measured["slow"]) == 3
    assert min(measured["slow"]) >= 0.02 > max(measured["fast"])


def test_matrix_products_have_a_plausible_rate():
    assert 1e9 < matmul_rate(torch.float32, CPU, turns=1) < 1e15


def test_the_baseline_of_the_refinement_is_the_same_function():
    masks, pixels = torch.rand(1, 3, 40, 52), torch.rand(1, 3, 40, 52) * 255
    assert (pamr(masks, pixels) - refine(masks, pixels)).abs().max() < 1e-4


def test_pictures_and_names(tmp_path: Path):
    paths = write_photographs(tmp_path, 34, (48, 64))
    assert len(set(paths)) == 34
    with Image.open(paths[33]) as last:
        assert last.size == (64, 48)
    assert (photograph(20, 30, seed=1) != photograph(20, 30, seed=2)).any()
    assert len(set(class_names(150))) == 150


def test_sections_on_micro():
    heard: list[Figure] = []
    options = BenchOptions(
        model="micro", turns=1, batches=(1, 2), sections=("machine", "pipeline", "stages", "text"), classes=4
    )
    figures = run_bench(options, tell=heard.append)
    assert heard == figures
    assert {figure.section for figure in figures} == {"machine", "pipeline", "stages", "text"}
    assert all(figure.value > 0 for figure in figures)
    whole = [f for f in figures if f.what == "JPEG to labels / vision model"]
    assert [f.settings["batch"] for f in whole] == [1, 2]
    first, again = (f.value for f in figures if f.section == "text")
    assert again < first  # remembered prompts are not computed


def test_other_dtypes_are_compared_with_float32():
    options = BenchOptions(
        model="micro", turns=1, batches=(2,), dtypes=("bfloat16",), sections=("pipeline",), classes=8
    )
    (same,) = (f for f in run_bench(options) if f.what == "pixels labelled as in float32")
    assert same.goal == (">=", 0.98)
    assert same.settings["dtype"] == "bfloat16"
    assert 0.9 < same.value <= 1


def test_folder_and_memory(tmp_path: Path):
    options = BenchOptions(model="micro", turns=1, batches=(2,), sections=("folder",), folder_seconds=0.1)
    shares = run_bench(options)
    assert [figure.unit for figure in shares] == ["share", "share"]
    assert all(0.01 < figure.value < 3 for figure in shares)
    large = in_own_process("picture", "micro", 600, 800, 3)
    assert 0 < large["before"] <= large["loaded"] <= large["peak"]


def test_a_figure_is_told_with_its_goal(tmp_path: Path):
    good = Figure("pipeline", "whole", 1.1, "x", ("<=", 1.15), {"dtype": "float32", "batch": 4})
    bad = Figure("folder", "folder", 0.7, "share", (">=", 0.85))
    assert good.reached
    assert bad.reached is False
    assert Figure("text", "prompts", 3.0, "ms").reached is None
    assert "1.1 x" in line(good)
    assert "batch 4" in line(good)
    assert "[reached: <= 1.15]" in line(good)
    assert "70.0 %" in line(bad)
    assert "[MISSED: >= 85]" in line(bad)
    assert table([bad, good]).index("pipeline") < table([bad, good]).index("folder")
    pytest.importorskip("matplotlib")
    assert draw([good, bad], "here", tmp_path / "bench.png")
    with Image.open(tmp_path / "bench.png") as picture:
        assert picture.width > 500
    assert not draw([Figure("text", "prompts", 3.0, "ms")], "here", tmp_path / "none.png")


def test_wrong_options_are_told():
    with pytest.raises(InputError, match=r"unknown section 'speed'; accepted: machine"):
        BenchOptions(sections=("speed",))
    with pytest.raises(InputError, match="at least 1"):
        BenchOptions(batches=(0,))
    with pytest.raises(InputError, match="unknown dtype"):
        run_bench(BenchOptions(dtypes=("float8",), sections=("machine",)))


def test_the_verb(tmp_path: Path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "talk2dino", "bench", "-o", str(tmp_path / "out"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=200)

    done = run("-m", "micro", "--only", "machine,text", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record == json.loads((tmp_path / "out" / "bench.json").read_text())
    assert {figure["section"] for figure in record["figures"]} == {"machine", "text"}
    assert record["machine"]["threads"] == torch.get_num_threads()
    wrong = run("--only", "speed")
    assert wrong.returncode == 1
    assert "unknown section 'speed'" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert run("--batch", "four").returncode == 2
