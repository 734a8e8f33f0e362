"""Result lines arrive, in any encoding and with any file name, or an error says why not."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest

from talk2dino.errors import OutputError
from talk2dino.io.console import print_json
from talk2dino.io.names import readable

NAME = os.fsdecode(b"caf\xe9 \xe5\xa4\xa9.jpg")  # not UTF-8, then a Chinese character


class Output(io.TextIOWrapper):
    def __init__(self, encoding):
        super().__init__(io.BytesIO(), encoding=encoding)

    @property
    def text(self):
        return self.buffer.getvalue().decode(self.encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_json_reads_back_unchanged(monkeypatch, encoding):
    output = Output(encoding)
    monkeypatch.setattr(sys, "stdout", output)
    print_json({"file": NAME, "share": 0.5, "emoji": "🐈"})
    assert json.loads(output.text) == {"file": NAME, "share": 0.5, "emoji": "🐈"}
    assert ("天" in output.text) == (encoding == "utf-8")


def test_readable_names():
    assert readable("a/天空 🐈.png") == "a/天空 🐈.png"
    assert readable("\ud800x") == "\\ud800x"


def run(redirect: str) -> subprocess.CompletedProcess:
    program = "from talk2dino.io.console import print_json; print_json(1)"
    return subprocess.run(
        ["bash", "-c", f'"$0" -c "{program}" {redirect}', sys.executable], capture_output=True, text=True, timeout=60,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )  # fmt: skip


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("redirect", "says"), [("> /dev/full", "standard output: the disk is full"), (">&-", "standard output is closed")]
)
def test_a_lost_result_is_an_error(redirect, says):
    finished = run(redirect)
    assert finished.returncode == 1
    assert says in finished.stderr
    assert "Exception ignored" not in finished.stderr  # at exit, for what is still buffered


def test_a_closed_stream(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OutputError, match="closed"):
        print_json("x")
