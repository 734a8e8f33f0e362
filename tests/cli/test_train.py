"""Extract, train, store and segment through the real commands, on scenes and the embedded model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from talk2dino.cli import build_app
from talk2dino.errors import Talk2DinoError, Talk2DinoWarning
from talk2dino.models.projection import load_projection
from talk2dino.world import render, sample_scene, write_captions


def run(*arguments: object, prefix: tuple[str, ...] = ("-m", "talk2dino")) -> subprocess.CompletedProcess:
    """A command in a process of its own."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *prefix, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)


def call(*arguments: object) -> tuple[int, str]:
    """A command in this process: its exit code, and what it prints."""
    result = CliRunner().invoke(build_app(), list(map(str, arguments)), env={"COLUMNS": "300"})
    if result.exception is not None and not isinstance(result.exception, (SystemExit, Talk2DinoError)):
        raise result.exception
    return result.exit_code, result.output + (str(result.exception) if result.exit_code == 1 else "")


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


def test_from_images_to_a_segmentation(scenes, store, tmp_path):
    out = tmp_path / "run"
    settings = tmp_path / "settings.yaml"
    settings.write_text("lr: 0.5\nbatch_size: 32\nstrategy: pairwise-max\n")
    options = ("--config", settings, "--lr", "0.001", "--epochs", "3", "--validation-share", "0.2")
    done = run("train", store, "-o", out, *options, "--write-pth", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["steps"] == 3 * (4 * 33 // 32)
    assert 0 <= result["text_to_image@5"] <= 1
    notes = [line for line in done.stderr.splitlines() if "validation loss" in line]
    assert notes[-1].startswith(
        f"step {result['steps']}: validation loss {result['validation_loss']:.6g}, image_to_text@1 "
    )
    described = json.loads((out / "config.json").read_text())
    assert (described["settings"]["lr"], described["settings"]["strategy"]) == (0.001, "pairwise-max")
    assert described["base_model"] == "micro"
    assert set(described["model"]["weights"]) == {"vision", "text"}
    published, ours = load_projection(out / "projection.pth"), load_projection(out)
    assert all(torch.equal(a, b) for a, b in zip(published.parameters(), ours.parameters(), strict=True))
    for arguments in (("-m", "micro", "--projection", out / "projection.pth"), ("-m", out)):
        folder = tmp_path / f"seg{len(list(tmp_path.iterdir()))}"
        done = run("segment", scenes / "3.png", "-p", "sky, grass, ball", "-o", folder, *arguments, "--json")
        assert done.returncode == 0, done.stderr
        assert list(folder.glob("3.*"))
    code, output = call("train", store, "-o", out, *options)
    assert code == 0
    assert f"{out}: 12 steps\n" in output


def test_published_is_the_published_training(scenes, tmp_path):
    code, output = call("extract", scenes, "-m", "micro", "-o", tmp_path / "store", "--limit", "33")
    assert code == 0, output
    code, output = call("train", tmp_path / "store", "-o", tmp_path / "run", "--published")
    assert code == 0, output
    assert "run: 200 steps, loss " in output  # 132 captions: one batch of 128 and one of 4 in each of 100 epochs
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert (settings["published_scale"], settings["keep_partial_batch"], settings["lr"]) == (True, True, 1e-4)
    assert not (tmp_path / "run" / "projection.pth").exists()


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


def test_a_refusal_is_one_sentence(store, tmp_path):
    done = run("train", store, "-o", tmp_path / "run", "--batch-size", "5000")
    assert done.returncode == 1
    expected = "the batch size is 5000, but there are 164 captions: choose a smaller --batch-size"
    assert done.stderr.strip().splitlines()[-1] == f"talk2dino: {expected}"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("train STORE -o OUT --strategy best", 2, "option strategy: expected one of max"),
        ("train STORE -o OUT --strategy mean-patch", 1, "no feature 'patch_mean', only: cls,heads; extract again with"),
        ("train STORE -o OUT --model vitb", 1, "were extracted with the model micro; expected vitb (--model)"),
        ("train SCENES -o OUT", 1, "is not a feature store"),
        ("train STORE", 2, "--out"),
        ("train STORE -o OUT --lr -1", 2, "lr: Input should be greater than 0 (got -1.0)"),
        ("train STORE -o OUT --shared-dim 8", 2, "needs side 'both'"),
        ("train STORE -o OUT --device gpu", 2, "unknown device 'gpu'; accepted: auto"),
        ("train STORE -o OUT --side vision --write-pth", 2, "got side 'vision' with tanh: leave out --write-pth"),
        (
            "train STORE -o OUT --published --epochs 3",
            2,
            "--epochs 3 contradicts --published, which trains with epochs 100",
        ),
        (
            "train STORE -o OUT --published --no-published-scale",
            2,
            "--no-published-scale contradicts --published, which ",
        ),
        (
            "train STORE -o OUT --published --max-steps 7",
            2,
            "--max-steps 7 contradicts --published, which trains with no max",
        ),
        ("train STORE -o OUT --config SCENES/0.png", 2, "cannot read the configuration"),
        ("extract SCENES/none -o OUT", 1, "SCENES/none"),
        ("extract SCENES -o OUT -m micrro", 1, "did you mean micro"),
        ("extract SCENES -o SCENES", 1, "is the folder of the source"),
        ("extract SCENES -o OUT --features heads,eyes", 2, "expected one or more of heads, average, cls, patch_mean"),
        ("extract SCENES -o OUT --features ,", 2, "expected one or more of heads, average, cls, patch_mean"),
        ("extract SCENES -o OUT --crop left", 2, "option crop: Input should be 'center' or 'squash' (got 'left')"),
        ("extract SCENES -o OUT --dtype int8", 2, "unknown dtype 'int8'; accepted: auto, float32"),
        ("extract SCENES -o OUT --device gpu", 2, "unknown device 'gpu'; accepted: auto"),
        ("extract SCENES -o OUT --shard 3", 2, "--shard: a shard is written I/N"),
        ("extract SCENES -o OUT --shard 0/4", 2, "--shard: shards count from 1 now: 0/4 is written 1/4"),
        ("store convert SCENES/0.png -o OUT -m vitb --name heads", 2, "expected FEATURE=KEY, for example heads="),
    ],
)
def test_refusals(scenes, store, tmp_path, arguments, code, message):
    names = {"STORE": store, "SCENES": scenes, "OUT": tmp_path / "out"}
    for name, path in names.items():
        arguments, message = arguments.replace(name, str(path)), message.replace(name, str(path))
    found, output = call(*arguments.split())
    assert (found, message in output) == (code, True), output
    assert not (tmp_path / "out").exists()


def test_a_configuration_that_contradicts_published_is_named(store, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("seed: 7\nmask_same_image: true\n")
    code, output = call("train", store, "-o", tmp_path / "out", "--config", config, "--published", "--seed", 8)
    assert code == 2
    assert (
        f"'mask_same_image: true' in {config} contradicts --published, which trains with mask same image off" in output
    )
    assert "--seed 8 contradicts --published, which trains with seed 123" in output


def test_wrong_usage_is_found_before_the_model_is_loaded(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "talk2dino.features.extraction.load_encoders", lambda *_, **__: pytest.fail("a model was loaded")
    )
    for options in (("--dtype", "int8"), ("--device", "gpu"), ("--shard", "0/4"), ("--crop", "x"), ("--features", "x")):
        assert call("extract", scenes, "-o", tmp_path / "out", *options)[0] == 2


@pytest.mark.parametrize("verb", ["extract", "train", "store check", "store merge", "store convert"])
def test_the_help_has_an_example(verb):
    code, output = call(*verb.split(), "--help")
    assert code == 0
    assert f"Example: talk2dino {verb} " in output


def test_unfinished_stores_are_named(store, tmp_path):
    part = shutil.copytree(store, tmp_path / "part")
    manifest = json.loads((part / "manifest.json").read_text())
    (part / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    with pytest.warns(Talk2DinoWarning, match="a feature store is not finished: its 41 images are used"):
        assert call("train", part, "-o", tmp_path / "run", "--batch-size", "32", "--max-steps", "1")[0] == 0


@pytest.mark.long
def test_torchrun(store, tmp_path):
    arguments = ("train", store, "--batch-size", "32", "--epochs", "2", "-o")
    assert run(*arguments, tmp_path / "one").returncode == 0
    launch = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0")
    done = run(*arguments, tmp_path / "two", prefix=(*launch, "-m", "talk2dino"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("use it with:") == 1
    one, two = load_projection(tmp_path / "one"), load_projection(tmp_path / "two")
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_store_verbs(scenes, tmp_path):
    for number in (1, 2):
        arguments = ("extract", scenes, "-m", "micro", "-o", tmp_path / "parts", "--records-per-shard", "8")
        code, output = call(*arguments, "--shard", f"{number}/2")
        assert code == 0, output
        assert f"parts/part-{number}-of-2: " in output
    merged = tmp_path / "whole"
    code, output = call("store", "merge", tmp_path / "parts", "-o", merged)
    assert code == 0
    assert "41 images, 164 captions, 6 shards" in output
    code, output = call("store", "check", merged, "--json")
    assert code == 0
    assert json.loads(output)["damaged"] == []
    shard = merged / "shard-00003.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.unlink()  # a hard link to the part's file
    shard.write_bytes(content)
    code, output = call("store", "check", merged)
    assert code == 1
    assert "shard-00003.safetensors is corrupted" in output
    code, output = call("train", merged, "-o", tmp_path / "x", "--batch-size", "8", "--epochs", "1")
    assert code == 1
    assert "shard-00003.safetensors is corrupted" in output
