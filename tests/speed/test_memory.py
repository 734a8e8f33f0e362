"""Memory figures: of the process alone, and able to fail."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from talk2dino import Segmenter
from talk2dino.errors import Talk2DinoError
from talk2dino.speed import memory
from talk2dino.speed.figures import BenchOptions, make_plan
from talk2dino.speed.folder import segment_folder
from talk2dino.speed.measure import peak_memory
from talk2dino.speed.memory import child_options, growth, in_own_process, peaks_of
from talk2dino.speed.parts import write_photographs

needs_restart = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks restart on Linux only")


def test_a_peak_is_of_the_process_alone():
    held = np.ones(900_000_000, np.uint8)  # the peak of this process; a program that it starts does not have it
    assert peak_memory() > held.nbytes
    options = {"device": "cpu", "dtype": "float32", "engine": "torch"}
    large = in_own_process("picture", "micro", 600, 800, 3, options=options)
    assert 0 < large["before"] <= large["loaded"] <= large["peak"]
    assert large["before"] < held.nbytes


@needs_restart
def test_a_leak_is_seen_and_steady_work_is_none():
    kept = []

    def leak(count: int) -> None:
        kept.extend(np.ones(1_000_000, np.uint8) for _ in range(count))

    def steady(count: int) -> None:
        for _ in range(count):
            np.ones(1_000_000, np.uint8)

    np.ones(peak_memory() * 2 // 3, np.uint8)  # an earlier peak must not hide what comes
    count = 4 + peak_memory() // 5_000_000  # a leak of a fifth of it
    assert growth(peaks_of(leak, (count // 4, count))) > memory.MOST_GROWTH
    kept.clear()
    assert growth(peaks_of(steady, (count // 4, count))) <= memory.MOST_GROWTH


def test_a_folder_run_lets_go_of_its_pictures(tmp_path: Path, monkeypatch):
    """What a picture leaves behind would grow with the folder: only the batches at work may be alive."""
    (tmp_path / "pictures").mkdir()
    paths = write_photographs(tmp_path / "pictures", 24, (60, 80))
    alive: set[int] = set()
    most, lock = [0], threading.Lock()
    true = Segmenter.segment_batch

    def segment_batch(self, images, *arguments, **options):
        results = true(self, images, *arguments, **options)
        with lock:
            for held in (*images, *results):
                number = id(held)
                alive.add(number)
                weakref.finalize(held, alive.discard, number)
            most[0] = max(most[0], len(alive))
        return results

    monkeypatch.setattr(Segmenter, "segment_batch", segment_batch)
    segmenter = Segmenter.from_pretrained("micro", device="cpu", dtype="float32")
    segment_folder(segmenter, paths, tmp_path / "out", ["palette"], batch_size=2)
    assert 4 <= most[0] < 24  # at most 4 workers' batches of 2 pictures and their results


def test_children_measure_what_was_asked(monkeypatch):
    plan = make_plan(BenchOptions(device="cpu", dtypes=("float32",), engines=("onnx",)), torch.device("cpu"))
    told = []

    def child(kind, model, *numbers, options):
        told.append((kind, model, numbers, options))
        return {"peak": 2e9, "loaded": 1e9, "seconds": 1.0, "pictures": [1, 4], "peaks": [100, 110]}

    monkeypatch.setattr(memory, "in_own_process", child)
    figures = list(memory.memory(plan))
    asked = {"device": "cpu", "dtype": "float32", "engine": "onnx"}
    assert told[0] == ("picture", "random-vitb", (4000, 6000, 150), asked)
    assert told[1] == ("folder", "micro", (1000,), asked)
    assert [figure.reached for figure in figures] == [None, True, False]
    assert child_options(plan, plan.pairs[0]) == asked


def test_a_child_says_what_is_wrong():
    with pytest.raises(SystemExit, match="unknown engine 'foo'"):
        memory.main(["picture", "micro", "60", "80", "2", "--engine=foo"])


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (
            "echo Traceback >&2; echo 'ValueError: a mistake' >&2; exit 1",
            "measures the folder failed: ValueError: a mistake",
        ),
        ("exit 1", "it said nothing"),
        ("echo no JSON", "it said nothing"),
        ("kill -9 $$", "SIGKILL; too little memory"),
    ],
)
def test_a_child_that_fails_is_told(monkeypatch, tmp_path: Path, script, told):
    program = tmp_path / "child"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(memory.sys, "executable", str(program))
    with pytest.raises(Talk2DinoError, match=told):
        in_own_process("folder", "micro", 4)
