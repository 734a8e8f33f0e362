"""Rate and remaining time are those of this run, whatever earlier runs had done."""

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


def test_lines_of_a_run_that_goes_on(clock, capsys):
    shown = module.Progress(0, "train", "step", every=10.0)
    clock.value += 20
    shown.reached(1040, 2000, 1000)
    clock.value += 20
    shown.reached(1080, 2000, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "train: 1040 of 2000 steps, 2.00 a second, 480 s left",
        "train: 1080 of 2000 steps, 2.00 a second, 460 s left",
    ]


def test_the_bar_of_a_run_that_goes_on(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    shown = module.Progress(0, "train", "step")
    shown.reached(1040, 2000, 1000)
    shown.reached(1080, 2000, 1000)
    bar = shown._bar
    assert (bar.n, bar.initial, bar.total) == (1080, 1000, 2000)
    shown.close()
