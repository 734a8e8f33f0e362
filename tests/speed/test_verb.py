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
from talk2dino.speed import suite as run_module
from talk2dino.speed.suite import Figure


def test_the_verb(tmp_path: Path):
    command = [sys.executable, "-m", "talk2dino", "bench", "-o", str(tmp_path / "out"), "-m", "micro"]
    done = subprocess.run([*command, "--only", "machine,text", "--json"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record == json.loads((tmp_path / "out" / "bench.json").read_text())
    assert {figure["section"] for figure in record["figures"]} == {"machine", "text"}
    assert record["machine"]["threads"] == torch.get_num_threads()


def test_a_folder_that_cannot_be_made_is_told():
    done = CliRunner().invoke(build_app(), ["bench", "-m", "micro", "-o", "/proc/x"])
    assert isinstance(done.exception, OutputError)
    assert "/proc/x cannot be made" in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "speed"], "unknown section 'speed'"),
        (["--only", ","], "names nothing"),
        (["--batch", "four"], "whole numbers"),
        (["--batch", "0"], "at least 1"),
        (["--dtype", ","], "names nothing"),
        (["--engine", ","], "names nothing"),
        (["--engine", "foo", "--only", "machine"], "unknown engine 'foo'"),
        (["--dtype", "float8", "--only", "machine"], "unknown dtype 'float8'"),
        (["--device", "abacus"], "unknown device"),
        (["--out", __file__], "is a file"),
    ],
)
def test_wrong_calls_are_told(arguments, told):
    done = CliRunner().invoke(build_app(), ["bench", "-m", "micro", *arguments])
    assert done.exit_code == 2, done.output
    assert told in " ".join(done.output.split())


def test_a_model_that_is_not_there_is_told_before_anything_is_measured(tmp_path: Path):
    done = CliRunner().invoke(build_app(), ["bench", "-m", "micor", "-o", str(tmp_path)])
    assert isinstance(done.exception, Talk2DinoError)
    assert not isinstance(done.exception, OutputError)
    assert not list(tmp_path.iterdir())


def test_a_failing_section_leaves_a_record_and_a_code(tmp_path: Path, monkeypatch):
    def fails(plan):
        yield Figure("memory", "found before", 1.0, "GB")
        raise Talk2DinoError("the child crashed")

    monkeypatch.setitem(run_module.MEASURES, "memory", fails)
    done = CliRunner().invoke(build_app(), ["bench", "-m", "micro", "--only", "memory", "-o", str(tmp_path)])
    assert done.exit_code == 1
    record = json.loads((tmp_path / "bench.json").read_text())
    assert [figure["what"] for figure in record["figures"]] == ["found before"]
    assert record["notes"][-1]["failed"]
    assert "the child crashed" in done.output
