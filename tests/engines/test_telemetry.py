"""Nobody is counted, and nothing is written outside the folders that this package says it writes to."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
from pathlib import Path
import torch
from talk2dino.engines import check_engine, make_engine
from talk2dino.models.vision import VisionModel
from talk2dino.models.vit import VisionTransformer, dinov2_registers, randomise

cache, *names = sys.argv[1:]
backbone = VisionTransformer(dinov2_registers(32, 1, 2, 128, grid=5))
randomise(backbone)
vision = VisionModel(backbone)
for name in names:
    check_engine(name, torch.device("cpu"), torch.float32)
    run = make_engine(name, vision, device=torch.device("cpu"), dtype=torch.float32, cache_dir=Path(cache))
    run(torch.zeros(1, 3, 28, 28))
assert "openvino_telemetry" not in sys.modules
"""


def skip_without(package: str) -> None:
    """As pytest.importorskip, without importing: openvino would count us."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed", allow_module_level=True)


def test_engines_write_nothing_into_the_home_folder(tmp_path: Path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        skip_without(package)
    names = ["openvino", "onnx"] if importlib.util.find_spec("openvino") else ["onnx"]
    home = tmp_path / "home"
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if k not in ("XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY")}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "cache"), *names], env=kept | {"HOME": str(home)},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [str(path.relative_to(home)) for path in home.rglob("*")] == []
