"""``talk2dino scale`` from the plan to one COCO file."""

from __future__ import annotations

import json

from command import run_here


def test_the_whole_way(source, tmp_path, capsys):
    run, plan = tmp_path / "run", ["scale", "plan", "segment", source, "-m", "micro", "--dtype", "float32"]
    done = run_here(capsys, *plan, "-p", "sky, grass", "-o", run, "--shard-size", "4")
    assert (done.returncode, done.stdout) == (0, f"{run}: 11 images in 3 shards; next: talk2dino scale work {run}\n")
    done = run_here(capsys, "scale", "work", run, "--worker", "2/2")
    assert done.returncode == 3, "the damaged image is in this shard"
    assert "1 shards with 4 images done, 1 failed; results in" in done.stderr
    status = json.loads(run_here(capsys, "scale", "status", run, "--json").stdout)
    assert (status["done"], status["shards"], status["images_done"]) == (1, 3, 4)
    done = run_here(capsys, "scale", "work", run)
    assert done.returncode == 0
    assert "2 shards with 7 images done (1 were finished already)" in done.stderr
    assert "3 of 3 shards, 11 of 11 images, 1 failed" in run_here(capsys, "scale", "status", run).stdout
    assert "11 images, 1 failed" in run_here(capsys, "scale", "summary", run).stdout
    assert run_here(capsys, "scale", "merge", run, "--coco", tmp_path / "all.json").stdout.endswith(
        "all.json: 10 images\n"
    )
    assert "all as their receipts say" in run_here(capsys, "scale", "verify", run).stdout
    result = run / "results" / "000001.parquet"
    result.write_bytes(result.read_bytes()[:-1] + b"x")
    done = run_here(capsys, "scale", "verify", run)
    assert done.returncode == 1
    assert "shard 1 is damaged" in done.stderr
    assert not (run / "done" / "000001.json").exists()
    done = run_here(capsys, *plan, "-p", "sky, sand", "-o", run, "--shard-size", "4")
    assert done.returncode == 1
    assert '["sky", "grass"] before, ["sky", "sand"] now' in done.stderr


def test_wrong_calls(source, tmp_path, capsys):
    for arguments, message in [
        (["plan", "segment", source, "-o", tmp_path / "x"], "give the classes either with --prompts"),
        (["plan", "segment", source, "-o", tmp_path / "x", "-p", "sky", "--mode", "round"], "mode"),
        (["work", tmp_path, "--worker", "3/2"], "3/2"),
        (["merge", tmp_path], "name either --coco FILE"),
    ]:
        done = run_here(capsys, "scale", *arguments)
        assert done.returncode == 2
        assert message in done.stderr
    assert not (tmp_path / "x").exists()
