"""The segment verb with videos: flags, messages, exit codes, and a run that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from command import run_here
from films import moving_square, write_video


@pytest.fixture
def film(tmp_path):
    frames = [frame[:60, :96] for frame in moving_square(20)]
    return write_video(tmp_path / "film.mp4", frames, codec="libx264", pixels="yuv420p")


def test_one_json_line_per_video(capsys, film, tmp_path):
    done = run_here(
        capsys, "segment", film, "-p", "sky, ball", "-m", "micro", "-o", tmp_path / "out", "--every", "0.2s",
        "--end", "0.5", "--save", "palette,json", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert (line["video"], line["frames"], line["seconds"]) == (str(film), 3, 0.5)
    assert set(line["files"]) == {"palette", "json"}
    assert sorted(path.name for path in (tmp_path / "out" / "film.labels").iterdir()) == [
        "000000.png", "000005.png", "000010.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--every", "often"], 2, "'often' is not a time"),
        (["--start", "2", "--end", "1"], 2, "end must be later than start"),
        (["--keyframe-every", "0"], 2, "--keyframe-every"),
        (["--save", "npz"], 1, "accepted: overlay, palette, json"),
        (["--start", "1:00"], 1, "the last frame of the video is at 0.760 s"),
    ],
)
def test_wrong_flags(capsys, film, tmp_path, arguments, code, words):
    done = run_here(capsys, "segment", film, "-p", "sky", "-m", "micro", "-o", tmp_path / "out", *arguments)
    assert done.returncode == code
    assert words in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.long
def test_a_killed_run_goes_on(film, tmp_path):
    """Kill -9 in the second piece; the resumed run writes what an undisturbed one writes."""
    long = write_video(
        tmp_path / "long.mp4", [frame[:60, :96] for frame in moving_square(150)], codec="libx264", pixels="yuv420p"
    )

    def command(out):
        return [sys.executable, "-m", "talk2dino", "segment", str(long), "-p", "sky, ball, fish", "-m", "micro", "-o", str(out),
                "--save", "overlay,palette,json", "--no-legend"]  # fmt: skip

    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run(command(tmp_path / "whole"), env=environment, check=True, capture_output=True)
    running = subprocess.Popen(command(tmp_path / "killed"), env=environment, stderr=subprocess.DEVNULL)
    journal = tmp_path / "killed" / ".long.video" / "journal.jsonl"
    try:
        deadline = time.monotonic() + 240
        while not journal.exists() or len(journal.read_text().splitlines()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    resumed = subprocess.run(command(tmp_path / "killed"), env=environment, check=True, capture_output=True, text=True)
    assert "64 of 150 frames are finished already" in resumed.stderr
    contents = [
        {
            str(path.relative_to(out)): path.read_bytes()
            for path in out.rglob("*")
            if path.is_file() and path.name[0] != "."
        }
        for out in (tmp_path / "whole", tmp_path / "killed")
    ]
    assert contents[0] == contents[1]
    assert len(contents[0]) == 152
