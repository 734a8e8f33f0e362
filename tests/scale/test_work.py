"""A run is the shards without a valid receipt; the same bytes come out whoever makes them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from scale_helpers import results

from talk2dino.errors import DataError, InputError, OutputError
from talk2dino.folder import run_folder
from talk2dino.scale import segment_job
from talk2dino.scale.places import Place
from talk2dino.scale.plan import make_plan, read_plan
from talk2dino.scale.receipts import read_standing, verify
from talk2dino.scale.reports import merge_coco, read_status, summarise
from talk2dino.scale.rows import decode_rows
from talk2dino.scale.work import work
from talk2dino.types import Segmentation


def test_results_are_those_of_a_folder_run(planned, source, micro, tmp_path):
    place, plan = planned()
    done = work(place, segmenter=micro)
    assert (done.shards, done.rows, done.failures, done.exit_code) == (3, 11, 1, 3)
    options = segment_job.folder_options(plan).model_copy(
        update={"out": tmp_path / "out", "save": ("json",), "recursive": True}
    )
    run_folder(options, segmenter=micro)
    rows = [row for content in results(place).values() for row in decode_rows(content)]
    assert [row.key for row in rows] == sorted(row.key for row in rows)
    for row in rows:
        if row.key == "broken.jpg":
            assert row.size is None
            assert "broken.jpg: " in row.error
            continue
        folder = json.loads((tmp_path / "out" / f"{row.key.rpartition('/')[2].removesuffix('.png')}.json").read_text())
        names = {category["id"]: category["name"] for category in folder["categories"]}
        expected = [(names[a["category_id"]], a["area"], a["segmentation"]["counts"]) for a in folder["annotations"]]
        assert list(row.classes) == expected


def test_two_workers_and_other_threads_give_the_same_bytes(planned, micro):
    one, _ = planned("one")
    work(one, segmenter=micro, workers=1)
    two, _ = planned("two")
    work(two, worker=(2, 2), segmenter=micro, workers=3)
    assert list(results(two)) == ["000001.parquet"]
    work(two, worker=(1, 2), segmenter=micro, workers=2)
    assert results(one) == results(two)


def test_only_shards_without_a_valid_receipt_are_made(planned, micro):
    place, plan = planned()
    work(place, segmenter=micro)
    before = results(place)
    assert work(place, segmenter=micro).shards == 0
    place.write("done/000000.json", b'{"cut')
    place.write("results/000001.parquet", b"short")
    place.remove("done/000002.json")
    standing = read_standing(place, plan)
    assert sorted(standing.damaged) == [0, 1]
    assert "is damaged" in standing.damaged[0]
    assert "has 5 bytes, expected" in standing.damaged[1]
    assert work(place, segmenter=micro).shards == 3
    assert results(place) == before


def test_verify_finds_a_changed_byte(planned, micro):
    place, plan = planned()
    work(place, segmenter=micro)
    assert verify(place, plan, read_standing(place, plan)) == {}
    content = bytearray(place.read("results/000001.parquet"))
    content[50] ^= 1
    place.write("results/000001.parquet", bytes(content))
    assert list(verify(place, plan, read_standing(place, plan))) == [1]


def test_status_summary_and_coco(planned, micro, tmp_path):
    place, _ = planned()
    with pytest.raises(DataError, match="nothing to summarise"):
        summarise(place)
    work(place, worker=(1, 3), segmenter=micro)
    status = read_status(place)
    assert (status.done, status.shards, status.images_done, status.images) == (1, 3, 4, 11)
    with pytest.raises(DataError, match="2 of 3 shards are not finished"):
        merge_coco(place, tmp_path / "all.json")
    work(place, segmenter=micro)
    status = read_status(place)
    assert (status.done, status.images_done, status.failed, status.seconds_left) == (3, 11, 1, 0)
    rows = [row for content in results(place).values() for row in decode_rows(content)]
    summary = summarise(place)
    assert summary["images"] == 11
    assert summary["failed"] == 1
    for name, found in summary["classes"].items():
        areas = [area for row in rows for one, area, _ in row.classes if one == name]
        assert found == {"images": len(areas), "area": sum(areas)}
    assert merge_coco(place, tmp_path / "all.json") == 10
    from pycocotools import mask

    merged = json.loads((tmp_path / "all.json").read_text())
    assert len({annotation["id"] for annotation in merged["annotations"]}) == len(merged["annotations"])
    for annotation in merged["annotations"]:
        assert mask.area(annotation["segmentation"]) == annotation["area"]
        assert mask.toBbox(annotation["segmentation"]).tolist() == annotation["bbox"]


def test_a_plan_is_not_changed(planned, source, micro):
    place, plan = planned()
    assert planned()[1] == plan
    with pytest.raises(InputError, match="shard_size: 4 before, 5 now"):
        planned(shard_size=5)
    with pytest.raises(InputError, match=r"settings.refine: false before, true now"):
        planned(refine=True)
    (source / "new.png").write_bytes((source / "0.png").read_bytes())
    with pytest.raises(DataError, match=r"changed since .* was planned \(11 images then, 12 now\)"):
        planned()
    assert read_plan(place) == plan


def test_damaged_and_foreign_plans(planned, micro):
    place, plan = planned()
    with pytest.raises(DataError, match="make one with 'talk2dino scale plan'"):
        work(Place(place.path("nothing")))
    values = plan.model_dump(mode="json")
    place.write_json("plan.json", {**values, "format": 2, "version": "9.0"})
    with pytest.raises(DataError, match=r"made by talk2dino 9.0, which is newer"):
        work(place, segmenter=micro)
    place.write_json("plan.json", {**values, "weights": {**plan.weights, "vision": "0" * 64}})
    with pytest.raises(InputError, match="other weights than the plan was made for"):
        work(place, segmenter=micro)
    place.write("plan.json", b"{}")
    with pytest.raises(DataError, match="is damaged"):
        work(place, segmenter=micro)
    place.write_json("plan.json", values)
    place.write("shards/000001.jsonl", b"")
    with pytest.raises(DataError, match="is not the list that was planned"):
        work(place, segmenter=micro)


def test_a_source_that_went_away_stops_the_run(planned, source, micro, monkeypatch):
    monkeypatch.setattr("talk2dino.scale.work.ENOUGH_TO_JUDGE", 3)
    place, _ = planned()
    for file in source.rglob("*.png"):
        file.unlink()
    with pytest.raises(DataError, match=r"of the 4 images of shard 0 failed, .* no such file.*--max-failed"):
        work(place, segmenter=micro)
    assert place.names("done") == {}


def test_a_place_that_cannot_be_written(planned, micro, monkeypatch):
    monkeypatch.setattr("talk2dino.scale.places.FIRST_WAIT", 0.0)
    place, _ = planned()
    written = []

    def full(path, content):
        written.append(path)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("talk2dino.scale.places.write_atomically", full)
    with pytest.raises(OutputError, match=r"cannot write .*No space left"):
        work(place, segmenter=micro)
    assert len(written) == 5
    monkeypatch.undo()
    assert work(place, segmenter=micro).rows == 11


def test_an_image_that_kills_its_process(planned, micro, tmp_path, source):
    """The third attempt at a shard decodes its images in a process of their own."""
    place, _ = planned()
    (source / "deep" / "3.png").write_bytes(b"KILL" + (source / "deep" / "3.png").read_bytes()[4:])
    code = (
        "import os, sys, talk2dino.scale.reading as reading\n"
        "real = reading._decode\n"
        "def decode(content, key, options):\n"
        "    if content[:4] == b'KILL': os.kill(os.getpid(), 9)\n"
        "    return real(content, key, options)\n"
        "reading._decode = decode\n"
        "from talk2dino.scale.places import Place\nfrom talk2dino.scale.work import work\n"
        f"if __name__ == '__main__': print(work(Place({str(tmp_path / 'plan')!r}), device='cpu').failures)\n"
    )
    script = tmp_path / "crash.py"
    script.write_text(code)
    runs = [subprocess.run([sys.executable, str(script)], capture_output=True, text=True) for _ in range(3)]
    assert [run.returncode for run in runs] == [-signal.SIGKILL, -signal.SIGKILL, 0], runs[2].stderr
    rows = {row.key: row for content in results(place).values() for row in decode_rows(content)}
    assert len(rows) == 11
    assert "ended the process" in rows["deep/3.png"].error


@pytest.mark.long
def test_killed_workers_leave_nothing_half_done(planned, micro, tmp_path):
    whole, _ = planned("whole", shard_size=1)
    work(whole, segmenter=micro)
    place, _ = planned("killed", shard_size=1)
    code = f"from talk2dino.scale.places import Place; from talk2dino.scale.work import work; work(Place({str(tmp_path / 'killed')!r}))"
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", code])
        before, deadline = len(place.names("done")), time.monotonic() + 60
        while len(place.names("done")) < min(11, before + 3) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
        if process.wait() == 0 or len(place.names("done")) == 11:
            break
    work(place, segmenter=micro)
    assert results(place) == results(whole)


def test_rows_of_a_segmentation_without_any_class():
    import numpy as np

    from talk2dino.scale.rows import Row, encode_rows

    empty = Segmentation(np.zeros((3, 5), np.uint8), ("background", "sky"), np.zeros((2, 3), np.uint8), background=0)
    row = Row.of("a", empty)
    assert row.classes == ()
    assert decode_rows(encode_rows([row, Row("b", error="no")])) == [row, Row("b", error="no")]


def test_make_plan_refuses_an_empty_shard(tmp_path):
    with pytest.raises(InputError, match="at least 1 image; got 0"):
        make_plan(Place(tmp_path), job="segment", source="x", settings={}, weights={}, shard_size=0)
