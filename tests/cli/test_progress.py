"""Rate and remaining time are those of this run, whatever earlier runs had finished."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from talk2dino.cli import progress as module


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(value=100.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: now.value)
    return now


def test_lines_of_a_resumed_run(clock, capsys):
    shown = module.ProgressBar("train", "step", every=10.0)
    shown(1000, 2000)
    clock.value += 20
    shown(1040, 2000, "loss 0.5")
    clock.value += 20
    shown(1080, 2000)
    assert capsys.readouterr().err.splitlines() == [
        "train: 1040 of 2000 steps, 2.00 per second, 480 s left, loss 0.5",
        "train: 1080 of 2000 steps, 2.00 per second, 460 s left",
    ]


def test_lines_of_a_run_that_begins(clock, capsys):
    shown = module.ProgressBar("segmenting", every=10.0)
    for done in range(1, 4):
        clock.value += 10
        shown(done, 4)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "segmenting: 1 of 4 images, 0.10 per second, 30 s left"
    assert lines[-1] == "segmenting: 3 of 4 images, 0.10 per second, 10 s left"


def test_the_bar_of_a_resumed_run(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with module.ProgressBar("train", "step") as shown:
        shown(1000, 2000)
        shown(1040, 2000)
        shown(1080, 2000, "loss 0.5")
        bar = shown._bar
        assert (bar.n, bar.initial, bar.total) == (1080, 1000, 2000)
        assert bar.postfix == "loss 0.5"
