"""Memory figures: they belong to one process, and they can fail."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from talk2dino import Segmenter
from talk2dino.errors import Talk2DinoError
from talk2dino.speed import peak_memory as memory
from talk2dino.speed.clocks import peak_memory
from talk2dino.speed.folder_runs import segment_folder
from talk2dino.speed.peak_memory import child_options, growth, in_new_process, peaks_of
from talk2dino.speed.plan import BenchOptions, make_plan
from talk2dino.speed.workload import write_photographs

needs_restart = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks restart on Linux only")


def test_a_peak_belongs_to_one_process():
    held = np.ones(900_000_000, np.uint8)  # the peak of this process, which a program that it starts does not inherit
    assert peak_memory() > held.nbytes
    options = {"device": "cpu", "dtype": "float32", "engine": "torch"}
    large = in_new_process("image", "micro", 600, 800, 3, options=options)
    assert 0 < large["before"] <= large["loaded"] <= large["peak"]
    assert large["before"] < held.nbytes


@needs_restart
def test_a_leak_is_seen_and_steady_work_is_not_one():
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


def test_a_folder_run_releases_its_images(tmp_path: Path, monkeypatch):
    """Memory must not grow with the folder: only the batches in progress may be alive."""
    paths = write_photographs(tmp_path / "images", 24, (60, 80))
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
    segment_folder(segmenter, paths, tmp_path / "out", ("palette",), batch_size=2)
    assert 4 <= most[0] < 24  # at most 4 workers' batches of 2 images and their results


def test_child_processes_measure_what_was_asked(monkeypatch):
    plan = make_plan(BenchOptions(device="cpu", dtypes=("float32",), engines=("onnx",)), torch.device("cpu"))
    calls = []

    def child(kind, model, *numbers, options):
        calls.append((kind, model, numbers, options))
        return {"peak": 2e9, "loaded": 1e9, "seconds": 1.0, "images": [1, 4], "peaks": [100, 110]}

    monkeypatch.setattr(memory, "in_new_process", child)
    figures = list(memory.memory(plan))
    asked = {"device": "cpu", "dtype": "float32", "engine": "onnx"}
    assert calls[0] == ("image", "random-vitb", (4000, 6000, 150), asked)
    assert calls[1] == ("folder", "micro", (1000,), asked)
    assert [figure.reached for figure in figures] == [None, True, False]
    assert child_options(plan, plan.pairs[0]) == asked


def test_a_child_process_says_what_is_wrong():
    with pytest.raises(SystemExit, match="unknown engine 'foo'"):
        memory.main('["image", "micro", [60, 80, 2], {"engine": "foo"}]')


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "echo Traceback >&2; echo 'ValueError: a mistake' >&2; exit 1",
            "measures the folder failed: ValueError: a mistake",
        ),
        ("exit 1", "it printed no reason"),
        ("echo no JSON", "it printed no reason"),
        ("kill -9 $$", "SIGKILL; the usual cause is too little memory"),
    ],
)
def test_a_failing_child_process_is_reported(monkeypatch, tmp_path: Path, script, message):
    program = tmp_path / "child"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(memory.sys, "executable", str(program))
    with pytest.raises(Talk2DinoError, match=message):
        in_new_process("folder", "micro", 4)
