"""What stands between a stage and its kernel: the fallback, and what the user is told."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from talk2dino.progress import warn_when_slow
from talk2dino.stages.kernels import cpu_kernel, plain_versions, run_kernel

PLAIN = torch.zeros(1)


def twice(x):
    return x + x


@pytest.mark.parametrize("damage", ["empty index", "cut code", "noise"])
def test_damaged_machine_code_is_told_and_the_plain_version_runs(tmp_path: Path, monkeypatch, caplog, damage):
    numba = pytest.importorskip("numba")
    from talk2dino.stages.kernels.compiled import compiled

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("talk2dino.stages.kernels.compiled.KERNELS", [])
    assert compiled(twice)(2.0) == 4.0
    (index,), (code,) = tmp_path.rglob("*.nbi"), tmp_path.rglob("*.nbc")
    if damage == "empty index":
        index.write_bytes(b"")
    elif damage == "cut code":
        code.write_bytes(code.read_bytes()[:100])
    else:
        code.write_bytes(b"\x80\x05cnowhere\nnothing\n.")
    kernel = compiled(twice)
    assert run_kernel(kernel, (2.0,), lambda: PLAIN, "refinement") is PLAIN
    assert "refinement uses its plain version" in caplog.text
    assert str(tmp_path) in caplog.text


def test_errors_of_the_kernel_itself_are_not_hidden():
    def wrong():
        raise ValueError("of the kernel")

    with pytest.raises(ValueError, match="of the kernel"):
        run_kernel(wrong, (), lambda: PLAIN, "refinement")


def test_what_is_broken_is_not_tried_again(monkeypatch):
    calls = []

    def no_space():
        calls.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("talk2dino.stages.kernels._load_cpu", lambda module, name: no_space)
    assert run_kernel(no_space, (), lambda: PLAIN, "refinement") is PLAIN
    assert cpu_kernel("pamr", "refine_cpu") is None
    assert calls == [1]


def test_plain_versions_can_be_asked_for(monkeypatch):
    monkeypatch.setattr("talk2dino.stages.kernels._load_cpu", lambda module, name: twice)
    assert cpu_kernel("pamr", "refine_cpu") is twice
    with plain_versions():
        assert cpu_kernel("pamr", "refine_cpu") is None
    assert cpu_kernel("pamr", "refine_cpu") is twice


def test_who_waits_is_told(caplog):
    log = logging.getLogger("waiting")
    with warn_when_slow(log, lambda: "quick", after=5):
        pass
    with warn_when_slow(log, lambda: None, after=0):
        time.sleep(0.05)
    assert not caplog.text
    with warn_when_slow(log, lambda: "this takes long", after=0.01):
        time.sleep(0.2)
    assert "this takes long" in caplog.text


@pytest.mark.parametrize("compiles", [True, False])
def test_compiling_is_told_once_while_it_lasts(monkeypatch, caplog, compiles):
    pytest.importorskip("numba")
    from talk2dino.stages import kernels
    from talk2dino.stages.kernels import compiled

    count = iter(range(100)) if compiles else iter([5] * 100)
    monkeypatch.setattr(compiled, "compilations", lambda: next(count))
    monkeypatch.setattr(kernels, "_said", False)
    monkeypatch.setattr(kernels, "warn_when_slow", lambda log, message: warn_when_slow(log, message, after=0.01))
    for _ in range(2):

        def slow():
            time.sleep(0.1)
            return PLAIN

        assert run_kernel(slow, (), lambda: None, "refinement") is PLAIN
    assert caplog.text.count("compiling the fast kernels") == int(compiles)


def test_without_compiled_kernels_the_command_line_says_so_once(tmp_path: Path):
    picture = next((Path(__file__).parents[2] / "examples" / "pictures").glob("*.png"))
    command = [
        sys.executable,
        "-m",
        "talk2dino",
        "segment",
        str(picture),
        "-p",
        "sky, grass",
        "-m",
        "micro",
        "--refine",
    ]
    done = subprocess.run(
        [*command, "-o", str(tmp_path)], env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True,
        timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("plain version") == 1
    assert "NUMBA_DISABLE_JIT" in done.stderr
