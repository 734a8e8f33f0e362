"""Run the command line: in this process for most tests, in a process of its own where that matters."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def run_process(*arguments: str | Path, timeout: float = 240, **environment: str) -> Done:
    """The real command, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "talk2dino", *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout, env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def run_here(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Done:
    """The same entry point in this process, which is a hundred times faster to start."""
    from talk2dino import cli

    before, given = warnings.showwarning, sys.argv
    capsys.readouterr()
    sys.argv = ["talk2dino", *map(str, arguments)]
    try:
        with warnings.catch_warnings():
            cli.main()
        code: object = 0
    except SystemExit as leaving:
        code = leaving.code
    finally:
        sys.argv, warnings.showwarning = given, before
    out, err = capsys.readouterr()
    return Done(int(code or 0) if isinstance(code, int | None) else 1, out, err)
