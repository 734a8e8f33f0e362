"""The real command in its own process: files, exit codes, bad pictures, interruption and resuming."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from talk2dino.world import render, sample_scene


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "talk2dino", *map(str, arguments)],
        capture_output=True, text=True, timeout=240, env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "场景 🐟.png"
    Image.fromarray(render(sample_scene(30_000_020), 120).image).save(path)
    return path


def test_writes_everything_and_skips_what_is_done(picture, tmp_path):
    call = (
        "segment",
        picture,
        "-p",
        "天空，草地, car=red car|automobile",
        "-m",
        "micro",
        "-o",
        tmp_path,
        "--save",
        "overlay,palette,json,npz",
        "--json",
    )
    done = run(*call)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert line["model"] == "micro"
    assert sum(line["shares"].values()) == pytest.approx(1, abs=1e-6)
    labels = np.asarray(Image.open(tmp_path / "场景 🐟.labels.png"))
    assert labels.shape == (120, 120)
    assert labels.max() <= 2
    assert {p.suffix for p in tmp_path.iterdir()} >= {".png", ".json", ".npz"}
    again = run(*call)
    assert again.returncode == 0
    assert "skipped" in again.stderr
    assert again.stdout == ""
    changed = run(*call, "--refine")
    assert json.loads(changed.stdout)["info"]["refined"] is True


def test_auto_falls_back_loudly(picture, tmp_path):
    done = run("segment", picture, "-p", "sky", "-o", tmp_path, HF_HOME=str(tmp_path / "empty"))
    assert done.returncode == 0
    assert done.stderr.count("WARNING") == 1
    assert "drawings" in done.stderr


def test_one_bad_picture_of_many(tmp_path):
    folder = tmp_path / "fifty"
    folder.mkdir()
    for i in range(50):
        Image.fromarray(render(sample_scene(30_000_100 + i), 24, supersample=1).image).save(folder / f"{i:02}.png")
    whole = (folder / "17.png").read_bytes()
    (folder / "17.png").write_bytes(whole[: len(whole) // 2])
    done = run("segment", folder, "-p", "sky,grass", "-m", "micro", "-o", tmp_path / "out", "--save", "palette")
    assert done.returncode == 3
    assert "17.png" in done.stderr
    assert len(list((tmp_path / "out").glob("*.labels.png"))) == 49
    read = run(
        "segment",
        folder / "17.png",
        "-p",
        "sky,grass",
        "-m",
        "micro",
        "-o",
        tmp_path / "out",
        "--save",
        "palette",
        "--allow-truncated",
    )
    assert read.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere.png", "-p", "sky"], 1, "nowhere.png"),
        (["PICTURE", "-p", "sky", "-m", "vit-b"], 1, "vitb"),
        (["PICTURE", "-p", "sky", "-m", "nobody/nothing"], 1, "HF_HOME"),
        (["PICTURE", "-p", " , "], 1, "no prompts"),
        (["PICTURE", "-p", "x" * 10000], 1, "500"),
        (["PICTURE"], 2, "--prompts"),
        (["PICTURE", "-p", "sky", "-b", "nan"], 1, "nan"),
        (["PICTURE", "-p", "sky", "-b", "7"], 1, "from 0 to 1"),
        (["PICTURE", "-p", "sky", "-b", "high"], 2, "high"),
        (["PICTURE", "-p", "sky", "--mode", "tiles"], 2, "whole, slide, square"),
        (["PICTURE", "-p", "sky", "--save", "gif"], 2, "overlay"),
        (["PICTURE", "-p", "sky", "--colour"], 2, "--colour"),
        (["PICTURE", "-p", "sky", "--projection", "none.pth"], 1, "none.pth"),
        (["PICTURE", "-p", "sky", "-o", "/proc/nothing"], 1, "/proc/nothing"),
    ],
)  # fmt: skip
def test_wrong_calls(picture, tmp_path, arguments, code, words):
    given = [str(picture) if a == "PICTURE" else a for a in arguments]
    model = [] if "-m" in given else ["-m", "micro"]
    out = [] if "-o" in given else ["-o", str(tmp_path / "out")]
    done = run("segment", *given, *model, *out)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_disk_full(picture):
    """/dev/full takes no byte; a folder cannot lie there, so the file system is made small."""
    mount = Path(os.environ.get("TMPDIR", "/tmp")) / f"small-{os.getpid()}"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)], capture_output=True).returncode:
        mount.rmdir()
        pytest.skip("a small file system can only be mounted as root")
    try:
        (mount / "filler").write_bytes(b"x" * 40_000)
        done = run("segment", picture, "-p", "sky", "-m", "micro", "-o", mount / "out")
        assert done.returncode == 1
        assert "space" in done.stderr.lower() or "full" in done.stderr.lower()
        assert "Traceback" not in done.stderr
        assert not list((mount / "out").glob("*.png*"))
    finally:
        subprocess.run(["umount", str(mount)], check=True)
        mount.rmdir()


def test_interrupted_folder_goes_on(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(150):
        Image.fromarray(render(sample_scene(i), 16, supersample=1).image).save(folder / f"{i}.png")
    out = tmp_path / "out"
    call = [
        sys.executable,
        "-m",
        "talk2dino",
        "segment",
        str(folder),
        "-p",
        "sky,grass",
        "-m",
        "micro",
        "-o",
        str(out),
        "--batch-size",
        "1",
        "--save",
        "palette",
    ]
    # A shell's background jobs ignore SIGINT and hand that down; a person's terminal does not.
    listen = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    process = subprocess.Popen(call, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=listen)
    deadline = time.monotonic() + 120
    while len(list(out.glob("*.labels.png"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    finished = {p.name: p.stat().st_mtime_ns for p in out.glob("*.labels.png")}
    assert 5 <= len(finished) < 150
    assert not list(out.glob("*.tmp*"))
    again = subprocess.run(call, capture_output=True, text=True, timeout=240)
    assert again.returncode == 0
    assert len(list(out.glob("*.labels.png"))) == 150
    untouched = sum((out / name).stat().st_mtime_ns == stamp for name, stamp in finished.items())
    assert untouched >= len(finished) - 1  # the last one may have been written, but not noted yet


def test_batches_of_like_sizes_answer_in_order(tmp_path):
    """Mixed sizes, a bad file in between and several workers: lines in the order of the pictures, labels as one by one."""
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(11):
        image = Image.fromarray(render(sample_scene(40_000_000 + i), 96).image)
        image.resize(((96, 72), (72, 96), (95, 71))[i % 3]).save(folder / f"{i}.png")
    (folder / "5b.png").write_bytes(b"no picture")
    common = ("segment", folder, "-p", "sky,grass,ball,house", "-m", "micro", "--save", "palette", "--json")
    several = run(*common, "-o", tmp_path / "a", "--batch-size", "3", "--workers", "3")
    single = run(*common, "-o", tmp_path / "b", "--batch-size", "1", "--workers", "1")
    assert (several.returncode, single.returncode) == (3, 3), several.stderr
    lines = [json.loads(line) for line in several.stdout.splitlines()]
    names = [Path(line["picture"]).stem for line in lines]
    assert names == sorted(names, key=lambda name: (int(name.strip("b")), name))
    assert len(names) == 12
    assert "error" in lines[6]
    for i in range(11):
        one, other = (np.asarray(Image.open(tmp_path / out / f"{i}.labels.png")) for out in "ab")
        assert one.shape == ((72, 96), (96, 72), (71, 95))[i % 3]
        assert (one != other).mean() <= 1e-3


def test_the_compared_systems_by_name(picture, tmp_path):
    done = run("segment", picture, "-p", "sky,grass", "-m", "micro", "--method", "clip-dense", "-o", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert "method clip-dense" in done.stderr
    assert json.loads(done.stdout)["info"]["method"] == "clip-dense"
    clusters = run(
        "segment", picture, "-p", "sky", "-m", "micro", "--method", "dino-clusters", "--option", "segments=3",
        "-o", tmp_path / "k",
    )  # fmt: skip
    assert clusters.returncode == 0, clusters.stderr
    wrong = run("segment", picture, "-p", "sky", "-m", "micro", "--method", "clipdense", "-o", tmp_path)
    assert wrong.returncode == 1
    assert "clip-dense" in wrong.stderr


def test_models_and_version():
    table = json.loads(run("models", "--json").stdout)
    assert {"micro", "vitb", "vitl", "dinov3-vitb", "dinov3-vitl"} <= {row["name"] for row in table}
    assert next(row for row in table if row["name"] == "micro")["cached"] is True
    assert run("--version").stdout.strip() == "0.1.0"
    assert run("unknown-verb").returncode == 2


def test_background_may_stand_alone():
    from talk2dino.cli.segment import fill_background

    assert fill_background(["a.png", "--background", "--refine"]) == ["a.png", "--background", "default", "--refine"]
    assert fill_background(["-b", "0.4"]) == ["-b", "0.4"]
    assert fill_background(["-b", "-0.4"]) == ["-b", "-0.4"]
    assert fill_background(["-b"]) == ["-b", "default"]
    assert fill_background(["--background", __file__]) == ["--background", "default", __file__]
    assert fill_background(["--background", "high"]) == ["--background", "high"]


def test_a_picture_of_a_rare_size_does_not_hold_back_the_others(monkeypatch):
    """Batches hold one size; a picture waits for others of its size, but only for so many pictures."""
    from talk2dino.cli import run_segment

    run = run_segment.SegmentRun({"mode": "whole"}, Path(), [], 4, False, False, False)
    paths = [Path(str(n)) for n in range(100)]
    monkeypatch.setattr(run, "_seen_size", lambda path: (9, 9) if path == paths[0] else (int(str(path)) % 3, 7))
    batches = list(run._batches(paths))
    assert sorted(path for batch in batches for path in batch) == sorted(paths)
    assert all(len({run._seen_size(path) for path in batch}) == 1 for batch in batches)
    place = batches.index([paths[0]])
    before = [path for batch in batches[:place] for path in batch]
    assert len(before) <= run_segment.LOOK_AHEAD * 4
    assert max(len(batch) for batch in batches) == 4


def test_windows_of_small_pictures_share_batches(tmp_path):
    from talk2dino.cli import run_segment

    sizes = [(30, 20), (44, 31), (3000, 1500), (20, 30)]
    paths = [tmp_path / f"{n}.png" for n in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        Image.new("RGB", size).save(path)
    run = run_segment.SegmentRun({"mode": "slide"}, tmp_path, [], 3, False, False, False)
    assert [len(batch) for batch in run._batches(paths)] == [3, 1]
