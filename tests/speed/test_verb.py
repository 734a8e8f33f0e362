"""``talk2dino bench`` as a user calls it, right and wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from talk2dino.cli import build_app
from talk2dino.errors import OutputError, Talk2DinoError
from talk2dino.speed.figures import Figure
from talk2dino.speed.suite import MEASURES


def test_the_verb(tmp_path: Path):
    command = [sys.executable, "-m", "talk2dino", "bench", "-o", str(tmp_path / "out"), "-m", "micro"]
    done = subprocess.run([*command, "--only", "machine,text", "--json"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record == json.loads((tmp_path / "out" / "bench.json").read_text())
    assert {figure["section"] for figure in record["figures"]} == {"machine", "text"}
    assert record["machine"]["threads"] == torch.get_num_threads()


def test_a_folder_that_cannot_be_created_is_reported():
    done = CliRunner().invoke(build_app(), ["bench", "-m", "micro", "-o", "/proc/x"])
    assert isinstance(done.exception, OutputError)
    assert "cannot write /proc/x/bench.json" in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "speed"], "unknown section 'speed'"),
        (["--only", ","], "names nothing"),
        (["--batch", "four"], "whole numbers"),
        (["--batch", "0"], "at least 1"),
        (["--turns", "0"], "--turns"),
        (["--dtype", ","], "names nothing"),
        (["--engine", ","], "names nothing"),
        (["--engine", "foo", "--only", "machine"], "unknown engine 'foo'"),
        (["--dtype", "int8", "--only", "machine"], "unknown dtype 'int8'"),
        (["--device", "abacus"], "unknown device"),
        (["--out", __file__], "is a file"),
    ],
)
def test_wrong_usage_exits_2_before_a_model_is_loaded(monkeypatch, arguments, message):
    monkeypatch.setattr("talk2dino.speed.workload.load_parts", lambda model: pytest.fail("loaded"))
    done = CliRunner().invoke(build_app(), ["bench", "-m", "micro", *arguments])
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.output.replace("│", " ").split())


def test_quick_has_two_turns_unless_others_are_given(monkeypatch, tmp_path: Path):
    asked = []

    def run(options, **_):
        asked.append(options)
        raise Talk2DinoError("enough")

    monkeypatch.setattr("talk2dino.speed.suite.run_bench", run)
    for arguments in ([], ["--quick"], ["--quick", "--turns", "3", "--only", "memory"]):
        CliRunner().invoke(build_app(), ["bench", "-o", str(tmp_path), *arguments])
    full, quick, own = asked
    assert (full.turns, quick.turns, own.turns) == (5, 2, 3)
    assert set(full.sections) - set(quick.sections) == {"memory"}
    assert own.sections == ("memory",)
    assert set(full.compared_engines) - set(quick.compared_engines) == {"compile"}


def test_an_unknown_model_is_reported_before_anything_is_measured(tmp_path: Path):
    done = CliRunner().invoke(build_app(), ["bench", "-m", "micor", "-o", str(tmp_path)])
    assert isinstance(done.exception, Talk2DinoError)
    assert not isinstance(done.exception, OutputError)
    assert not list(tmp_path.iterdir())


def test_a_failing_section_leaves_a_record_and_an_exit_code(tmp_path: Path, monkeypatch):
    def fails(plan):
        yield Figure("memory", "found before", 1.0, "GB")
        raise Talk2DinoError("the child crashed")

    monkeypatch.setitem(MEASURES, "memory", fails)
    done = CliRunner().invoke(build_app(), ["bench", "-m", "micro", "--only", "memory", "-o", str(tmp_path)])
    assert done.exit_code == 1
    record = json.loads((tmp_path / "bench.json").read_text())
    assert [figure["what"] for figure in record["figures"]] == ["found before"]
    assert record["notes"][-1]["failed"]
    assert "the child crashed" in done.output
