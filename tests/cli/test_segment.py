"""The segment verb: options, messages and exit codes. The work behind it is tested in tests/test_folder.py."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command import run_here, run_process
from PIL import Image

from talk2dino.io.journal import Journal
from talk2dino.world import render, sample_scene


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "场景 🐟.png"
    Image.fromarray(render(sample_scene(30_000_020), 120).image).save(path)
    return path


def test_writes_everything_and_skips_what_is_finished(capsys, image, tmp_path):
    call = (
        "segment", image, "-p", "天空，草地, car=red car|automobile", "-m", "micro", "-o", tmp_path,
        "--save", "overlay,palette,json,npz", "--json",
    )  # fmt: skip
    done = run_process(*call)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert line["model"] == "micro"
    assert sum(line["shares"].values()) == pytest.approx(1, abs=1e-6)
    assert set(line["files"]) == {"overlay", "palette", "json", "npz"}
    labels = np.asarray(Image.open(tmp_path / "场景 🐟.labels.png"))
    assert labels.shape == (120, 120)
    assert labels.max() <= 2
    again = run_here(capsys, *call)
    assert again.returncode == 0
    assert "finished already" in again.stderr
    assert again.stdout == ""
    changed = run_here(capsys, *call, "--refine")
    assert json.loads(changed.stdout)["info"]["refined"] is True


def test_auto_falls_back_to_micro_with_a_warning(capsys, image, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    done = run_here(capsys, "segment", image, "-p", "sky", "-o", tmp_path)
    assert done.returncode == 0
    assert done.stderr.count("WARNING") == 1
    assert "drawings" in done.stderr


def test_one_bad_image_of_several(capsys, tmp_path):
    folder = tmp_path / "five"
    folder.mkdir()
    for i in range(5):
        Image.fromarray(render(sample_scene(30_000_100 + i), 24, supersample=1).image).save(folder / f"{i}.png")
    whole = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(whole[: len(whole) // 2])
    call = ("segment", folder, "-p", "sky,grass", "-m", "micro", "-o", tmp_path / "out", "--save", "palette")
    done = run_here(capsys, *call)
    assert done.returncode == 3
    assert "4 images done, 1 failed" in done.stderr
    assert "--allow-truncated" in done.stderr
    assert len(list((tmp_path / "out").glob("*.labels.png"))) == 4
    assert run_here(capsys, *call, "--allow-truncated").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere.png", "-p", "sky"], 1, "nowhere.png"),
        (["IMAGE", "-p", "sky", "-m", "vit-b"], 1, "vitb"),
        (["IMAGE", "-p", "sky", "-m", "nobody/nothing"], 1, "HF_HOME"),
        (["IMAGE", "-p", " , "], 2, "no prompts"),
        (["IMAGE", "-p", ""], 2, "no prompts"),
        (["IMAGE", "-p", "x" * 10000], 2, "500"),
        (["IMAGE"], 2, "--prompts"),
        (["IMAGE", "-p", "sky", "--prompt-file", "x.txt"], 2, "either"),
        (["IMAGE", "-p", "sky", "-b", "nan"], 2, "nan"),
        (["IMAGE", "-p", "sky", "-b", "-inf"], 2, "-inf"),
        (["IMAGE", "-p", "sky", "-b", ""], 2, "not a number"),
        (["IMAGE", "-p", "sky", "-b", "7"], 2, "from -1 to 1"),
        (["IMAGE", "-p", "sky", "-b", "-0.5"], 1, "from 0 to 1"),
        (["IMAGE", "-p", "sky", "-b", "high"], 2, "high"),
        (["IMAGE", "-p", "sky", "--threshold", "sky"], 2, "NAME=NUMBER"),
        (["IMAGE", "-p", "sky", "--threshold", "sea=0.5"], 2, "sea"),
        (["IMAGE", "-p", "sky", "--mode", "tiles"], 2, "slide"),
        (["IMAGE", "-p", "sky", "--save", "gif"], 2, "overlay"),
        (["IMAGE", "-p", "sky", "--save", ","], 2, "at least one"),
        (["IMAGE", "-p", "sky", "--dtype", "int8"], 2, "bfloat16"),
        (["IMAGE", "-p", "sky", "--device", "quantum"], 2, "cuda:N"),
        (["IMAGE", "-p", "sky", "--engine", "x"], 2, "openvino"),
        (["IMAGE", "-p", "sky", "--method", "clipdense"], 2, "did you mean clip-dense"),
        (["IMAGE", "-p", "sky", "--option", "variant=values"], 2, "no option 'variant'"),
        (["IMAGE", "-p", "sky", "--option", "variant"], 2, "NAME=VALUE"),
        (["IMAGE", "-p", "sky", "--colour"], 2, "--colour"),
        (["IMAGE", "-p", "sky", "--projection", "none.pth"], 1, "none.pth"),
        (["IMAGE", "-p", "sky", "-o", "/proc/nothing"], 1, "/proc/nothing"),
        (["IMAGE", "-p", "sky", "--max-pixels", "100"], 1, "--max-pixels"),
    ],
)  # fmt: skip
def test_wrong_calls(capsys, image, tmp_path, arguments, code, words):
    given = [str(image) if a == "IMAGE" else a for a in arguments]
    model = [] if "-m" in given else ["-m", "micro"]
    out = [] if "-o" in given else ["-o", str(tmp_path / "out")]
    done = run_here(capsys, "segment", *given, *model, *out)
    assert done.returncode == code, done.stderr
    assert words in " ".join(done.stderr.split())
    assert not list(tmp_path.glob("out/*.png"))


def test_wrong_usage_is_found_before_a_model_loads(capsys, image, monkeypatch):
    from talk2dino.models import loading

    monkeypatch.setattr(loading, "load_parts", lambda *_, **__: pytest.fail("a model was loaded"))
    for arguments in (["-b", "nan"], ["--dtype", "int8"], ["--engine", "x"], ["--method", "x"]):
        assert run_here(capsys, "segment", image, "-p", "sky", *arguments).returncode == 2


def test_disk_full(capsys, image):
    """The file system is made small, since a folder cannot lie in /dev/full."""
    mount = Path(os.environ.get("TMPDIR", "/tmp")) / f"small-{os.getpid()}"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)], capture_output=True).returncode:
        mount.rmdir()
        pytest.skip("a small file system can only be mounted as root")
    try:
        (mount / "filler").write_bytes(b"x" * 40_000)
        done = run_here(capsys, "segment", image, "-p", "sky", "-m", "micro", "-o", mount / "out")
        assert done.returncode == 1
        assert "space" in done.stderr.lower() or "full" in done.stderr.lower()
        assert "Traceback" not in done.stderr
        assert not list((mount / "out").glob("*.png*"))
    finally:
        subprocess.run(["umount", str(mount)], check=True)
        mount.rmdir()


@pytest.fixture
def many(tmp_path):
    """150 images of 16 pixels: a run that can be interrupted in the middle."""
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(150):
        Image.fromarray(render(sample_scene(i), 16, supersample=1).image).save(folder / f"{i}.png")
    return folder


def one_by_one(folder, out):
    return ["segment", folder, "-p", "sky,grass", "-m", "micro", "-o", out, "--batch-size", 1, "--save", "palette"]


def test_an_interrupted_folder_is_resumed(capsys, many, tmp_path):
    out = tmp_path / "out"
    # A shell's background jobs ignore SIGINT and hand that down; a person's terminal does not.
    listen = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    process = subprocess.Popen(
        [sys.executable, "-m", "talk2dino", *map(str, one_by_one(many, out))],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=listen,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(list(out.glob("*.labels.png"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command resumes it" in errors
    finished = {p.name: p.stat().st_mtime_ns for p in out.glob("*.labels.png")}
    assert 5 <= len(finished) < 150
    assert not list(out.glob(".*.tmp*"))
    assert run_here(capsys, *one_by_one(many, out)).returncode == 0
    assert len(list(out.glob("*.labels.png"))) == 150
    untouched = sum((out / name).stat().st_mtime_ns == stamp for name, stamp in finished.items())
    assert untouched >= len(finished) - 1  # the last one may have been written, but not recorded yet


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_interrupt_as_ctrl_c_does(capsys, many, tmp_path, monkeypatch, number):
    before, add = signal.getsignal(number), Journal.add

    def add_and_stop(journal, record):
        add(journal, record)
        assert callable(signal.getsignal(number))  # otherwise the signal would end this process
        if len(journal.records) == 5:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Journal, "add", add_and_stop)
    try:
        done = run_here(capsys, *one_by_one(many, tmp_path / "out"))
    finally:
        signal.signal(number, before)
    assert done.returncode == 130, done.stderr
    assert "the same command resumes it" in done.stderr
    assert 5 <= len(list((tmp_path / "out").glob("*.labels.png"))) < 150


def test_other_methods_by_name(capsys, image, tmp_path):
    done = run_here(
        capsys, "segment", image, "-p", "sky,grass", "-m", "micro", "--method", "clip-dense", "-o", tmp_path, "--json"
    )
    assert done.returncode == 0, done.stderr
    assert "clip-dense with micro" in done.stderr
    assert json.loads(done.stdout)["info"]["method"] == "clip-dense"
    clusters = run_here(
        capsys, "segment", image, "-p", "sky", "-m", "micro", "--method", "dino-clusters", "--option", "segments=3",
        "-o", tmp_path / "k", "--json",
    )  # fmt: skip
    assert set(json.loads(clusters.stdout)["shares"]) <= {"segment 1", "segment 2", "segment 3"}


def test_an_image_from_standard_input(capsys, image, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(image.read_bytes())))
    done = run_here(capsys, "segment", "-", "-p", "sky", "-m", "micro", "-o", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["size"] == [120, 120]
    assert (tmp_path / "stdin.labels.png").is_file()


def test_background_may_stand_without_a_number():
    from talk2dino.cli.segment import fill_background

    assert fill_background(["a.png", "--background", "--refine"]) == ["a.png", "--background", "default", "--refine"]
    assert fill_background(["-b", "0.4"]) == ["-b", "0.4"]
    assert fill_background(["-b", "-0.4"]) == ["-b", "-0.4"]
    assert fill_background(["-b", "-inf"]) == ["-b", "-inf"]
    assert fill_background(["-b"]) == ["-b", "default"]
    assert fill_background(["--background", __file__]) == ["--background", "default", __file__]
    assert fill_background(["--background", "high"]) == ["--background", "high"]
