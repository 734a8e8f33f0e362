"""Extract, train and segment through the real commands, on scenes and the embedded model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from talk2dino.cli import build_app
from talk2dino.models.projection import load_projection
from talk2dino.world import render, sample_scene, write_captions


def run(*arguments: object, prefix: tuple[str, ...] = ("-m", "talk2dino")) -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *prefix, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    lines = []
    for seed in range(41):
        scene = sample_scene(seed)
        rendered = render(scene)
        Image.fromarray(rendered.image).save(folder / f"{seed}.png")
        lines.append(json.dumps({"file_name": f"{seed}.png", "captions": write_captions(scene, rendered)}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def store(scenes, tmp_path_factory):
    out = tmp_path_factory.mktemp("stores") / "store"
    done = run("extract", scenes, "-m", "micro", "-o", out, "--features", "heads,cls", "--dtype", "float32", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["images"], result["captions"], result["skipped"]) == (41, 4 * 41, 0)
    return out


def test_from_pictures_to_a_segmentation(scenes, store, tmp_path):
    out = tmp_path / "run"
    settings = tmp_path / "settings.yaml"
    settings.write_text("lr: 0.5\nbatch_size: 32\nstrategy: pairwise-max\n")
    call = (
        "train",
        store,
        "-o",
        out,
        "--config",
        settings,
        "--lr",
        "0.001",
        "--epochs",
        "3",
        "--validation-share",
        "0.2",
    )
    done = run(*call, "--published", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["steps"] == 3 * (4 * 33 // 32)
    assert 0 <= result["text_to_image@5"] <= 1
    described = json.loads((out / "config.json").read_text())
    assert (described["settings"]["lr"], described["settings"]["strategy"]) == (0.001, "pairwise-max")
    assert described["base_model"] == "micro"
    assert set(described["model"]["weights"]) == {"vision", "text"}
    published, ours = load_projection(out / "projection.pth"), load_projection(out)
    assert all(torch.equal(a, b) for a, b in zip(published.parameters(), ours.parameters(), strict=True))
    for arguments in (
        ("-m", "micro", "--projection", out),
        ("-m", "micro", "--projection", out / "projection.pth"),
        ("-m", out),
    ):
        folder = tmp_path / f"seg{len(list(tmp_path.iterdir()))}"
        done = run("segment", scenes / "3.png", "-p", "sky, grass, ball", "-o", folder, *arguments, "--json")
        assert done.returncode == 0, done.stderr
        assert list(folder.glob("3.*"))
    assert run(*call, "--published").returncode == 0


@pytest.mark.long
def test_vision_side_segments_too(scenes, store, tmp_path):
    for side in ("vision", "both"):
        done = run("train", store, "-o", tmp_path / side, "--side", side, "--batch-size", "32", "--epochs", "1")
        assert done.returncode == 0, done.stderr
        done = run(
            "segment", scenes / "3.png", "-p", "sky, ball", "-o", tmp_path / "s", "-m", tmp_path / side, "--json"
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["model"] == side


def test_refusals_are_one_sentence(scenes, store, tmp_path):
    part = shutil.copytree(store, tmp_path / "part")
    manifest = json.loads((part / "manifest.json").read_text())
    (part / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    for arguments, code, message in (
        (("train", part, "-o", tmp_path / "p", "--strategy", "average-attention"), 1, "part is not finished: its 41 "),
        (("train", store, "-o", tmp_path / "a", "--batch-size", "5000"), 1, "cannot be drawn from 164"),
        (("train", store, "-o", tmp_path / "b", "--strategy", "best"), 2, "unknown head strategy 'best'"),
        (("train", store, "-o", tmp_path / "c", "--strategy", "mean-patch"), 1, "no feature 'patch_mean'"),
        (
            ("train", store, "-o", tmp_path / "d", "--model", "vitb"),
            1,
            "holds features of the model micro, not of vitb",
        ),
        (("train", tmp_path, "-o", tmp_path / "e"), 1, "is not a feature store"),
        (("train", store), 2, "--out"),
        (("extract", tmp_path / "none", "-o", tmp_path / "f"), 1, "no caption source at"),
        (("extract", store, "-o", tmp_path / "g", "--shard", "3/3"), 2, "I/N"),
        (("extract", scenes, "-o", tmp_path / "h", "-m", "micrro"), 1, "did you mean micro"),
        (("extract", scenes, "-o", scenes), 1, "is the source's own folder"),
    ):
        done = run(*arguments)
        assert done.returncode == code, (arguments, done.stderr)
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not any((tmp_path / name).exists() for name in "bcdefgh")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "STORE", "-o", "OUT", "--lr", "-1"), "lr: Input should be greater than 0 (got -1.0)"),
        (("train", "STORE", "-o", "OUT", "--shared-dim", "8"), "it goes with side 'both'"),
        (("extract", "STORE", "-o", "OUT", "--features", "heads,eyes"), "any of heads, average, cls, patch_mean"),
        (("extract", "STORE", "-o", "OUT", "--crop", "left"), "neither center nor squash"),
    ],
)
def test_wrong_usage_exits_with_2(arguments, message):
    result = CliRunner().invoke(build_app(), arguments, env={"COLUMNS": "300"})
    assert result.exit_code == 2
    assert message in result.stderr


def test_extraction_tells_what_should_be_known(store, scenes, tmp_path):
    """Damaged shards that are made again, on stderr; and what a source noted of itself."""
    mended = shutil.copytree(store, tmp_path / "store")
    (mended / "shard-00000.jsonl").unlink()
    call = ("extract", scenes, "-m", "micro", "-o", mended, "--features", "cls,heads", "--dtype", "float32")
    result = CliRunner().invoke(build_app(), list(map(str, call)))
    assert result.exit_code == 0, result.output
    assert "talk2dino: making 1 damaged shards again: " in result.stderr
    assert (mended / "shard-00000.jsonl").read_bytes() == (store / "shard-00000.jsonl").read_bytes()


def test_training_tells_that_nothing_could_be_drawn(store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    call = ("train", store, "-o", tmp_path, "--batch-size", "32", "--epochs", "1", "--device", "cpu")
    result = CliRunner().invoke(build_app(), list(map(str, call)))
    assert result.exit_code == 0, result.output
    assert "heads.png are not drawn, for matplotlib is not installed: pip install 'talk2dino[plots]'" in result.stderr


@pytest.mark.long
def test_torchrun(store, tmp_path):
    call = ("train", store, "--batch-size", "32", "--epochs", "2", "-o")
    assert run(*call, tmp_path / "one").returncode == 0
    launch = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0")
    done = run(*call, tmp_path / "two", prefix=(*launch, "-m", "talk2dino"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("use it:") == 1
    one, two = load_projection(tmp_path / "one"), load_projection(tmp_path / "two")
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.long
def test_store_verbs(scenes, tmp_path):
    call = ("extract", scenes, "-m", "micro", "-o", tmp_path / "parts", "--records-per-shard", "8", "--shard")
    for part in range(2):
        done = run(*call, f"{part}/2")
        assert done.returncode == 0, done.stderr
    merged = tmp_path / "whole"
    done = run("store", "merge", tmp_path / "parts", "-o", merged)
    assert done.returncode == 0, done.stderr
    assert "41 pictures, 164 captions, 6 shards" in done.stdout
    assert run("store", "check", merged).returncode == 0
    shard = Path(merged / "shard-00003.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.unlink()
    shard.write_bytes(content)
    done = run("store", "check", merged)
    assert done.returncode == 1
    assert "shard-00003.safetensors is corrupted" in done.stderr
    done = run("train", merged, "-o", tmp_path / "x", "--batch-size", "8", "--epochs", "1")
    assert done.returncode == 1
    assert "shard-00003.safetensors is corrupted" in done.stderr
