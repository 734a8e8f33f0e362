import copy
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from miniature import make_miniature

from talk2dino.errors import DataError, InputError, OutputError, Talk2DinoError
from talk2dino.evaluation.datasets import get_benchmark, open_benchmark
from talk2dino.evaluation.journal import (
    ImageRecord,
    ShardJournal,
    add_up,
    hash_names,
    open_shard,
    read_config,
    read_run,
)
from talk2dino.evaluation.metrics import NONE, ConfusionMatrix
from talk2dino.evaluation.options import EvaluationOptions
from talk2dino.evaluation.protocol import run_benchmark
from talk2dino.evaluation.report import report_run
from talk2dino.models.fingerprint import weights_checksum


def run(segmenter, folder=None, **values):
    options = EvaluationOptions(**values)
    return run_benchmark(segmenter, options.benchmarks[0], options, folder=folder)


def spoiled(labels):
    return np.where(np.arange(labels.shape[1]) % 3 == 0, 0, labels)


@pytest.fixture
def ade(tmp_path, oracle):
    """Runs the miniature of ADE20K into a folder; each call has a fresh segmenter, which it returns."""
    truth = make_miniature("ade20k", tmp_path)

    def go(folder=None, **values):
        segmenter = oracle(truth.values(), spoiled)
        outcome = run(
            segmenter, None if folder is None else tmp_path / folder, benchmark="ade20k", data=tmp_path, **values
        )
        return outcome, segmenter

    go.names = sorted(truth)
    return go


# --- shards ----------------------------------------------------------------------------------------------------------


def test_shards_merged_equal_one_run(tmp_path, ade):
    whole, _ = ade()
    for number in (1, 2):
        ade(f"part{number}", shard=(number, 2))
        ade("both", shard=(number, 2))
    for folders in (["part2", "part1"], ["both"]):
        merged = read_run([tmp_path / folder for folder in folders])
        assert merged.missing is None
        assert sorted(record.name for record in merged.records) == ade.names
        assert (merged.matrix.counts == whole.matrix.counts).all()
        assert merged.config["images"]["count"] == 3
    assert read_run([tmp_path / "part2"]).missing == "shard 1 of 2 is missing"
    with pytest.raises(InputError, match="holds a run with 2 shards, not 1"):
        ade("both")


def test_a_shard_without_images_takes_part_in_the_merge(tmp_path, ade):
    for number in range(1, 5):  # of three images
        ade("out", shard=(number, 4))
    merged = read_run([tmp_path / "out"])
    assert (merged.missing, len(merged.records)) == (None, 3)


def test_a_stopped_shard_is_incomplete(tmp_path, ade):
    for name, shard in (("a", (1, 2)), ("b", (2, 2)), ("whole", (1, 1))):
        ade(name, shard=shard)
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    both = read_run([tmp_path / "a", tmp_path / "b", tmp_path / "copy"])  # equal records count once
    assert (both.missing, len(both.records)) == (None, 3)
    for name, file in (("copy", "images-1-of-2.jsonl"), ("whole", "images-1-of-1.jsonl")):
        path = tmp_path / name / file  # stopped after its first image
        path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    assert read_run([tmp_path / "copy", tmp_path / "b"]).missing == "shard 1 of 2: 1 of 2 images"
    assert read_run([tmp_path / "copy"]).missing == "shard 2 of 2 is missing; shard 1 of 2: 1 of 2 images"
    assert read_run([tmp_path / "whole"]).missing == "shard 1 of 1: 1 of 3 images"
    with pytest.raises(InputError, match="are the same shard with different records"):
        read_run([tmp_path / "a", tmp_path / "copy"])


def test_shards_with_other_images_are_refused(tmp_path, ade):
    ade("a", shard=(1, 2))
    ade("b", shard=(2, 2))
    path = tmp_path / "b" / "images-2-of-2.jsonl"
    content = path.read_text()
    path.write_text(content.replace("000000000285", "000000000286"))
    with pytest.raises(DataError, match=r"other images than their config\.json says"):
        read_run([tmp_path / "a", tmp_path / "b"])
    path.write_text((tmp_path / "a" / "images-1-of-2.jsonl").read_text())
    with pytest.raises(DataError, match="shard 2 of 2 has 2 images, but its run has 1"):
        read_run([tmp_path / "a", tmp_path / "b"])


def test_one_image_in_two_shards_of_an_incomplete_merge_is_refused(tmp_path, ade):
    for number in (1, 2):  # of three
        ade(f"part{number}", shard=(number, 3))
    path = tmp_path / "part2" / "images-2-of-3.jsonl"
    path.write_text((tmp_path / "part1" / "images-1-of-3.jsonl").read_text())
    with pytest.raises(DataError, match="the same image is in two shards"):
        read_run([tmp_path / "part1", tmp_path / "part2"])


def test_runs_with_other_numbers_of_shards_do_not_merge(tmp_path, ade):
    ade("halves", shard=(1, 2))
    ade("thirds", shard=(2, 3))
    with pytest.raises(InputError, match="runs with different numbers of shards: 2, 3"):
        read_run([tmp_path / "halves", tmp_path / "thirds"])
    (tmp_path / "thirds" / "config.json").unlink()
    with pytest.raises(DataError, match="thirds holds no evaluation: expected"):
        read_run([tmp_path / "thirds"])


def test_a_record_that_is_written_twice_counts_once(tmp_path, ade):
    whole, _ = ade("out")
    path = tmp_path / "out" / "images-1-of-1.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    read = read_run([tmp_path / "out"])
    assert (read.missing, len(read.records)) == (None, 3)
    assert (read.matrix.counts == whole.matrix.counts).all()


def test_a_record_holds_the_counts_and_the_miou(tmp_path):
    matrix = ConfusionMatrix(("a", "b", "c"))
    matrix.update(np.array([[0, 1, 1, NONE, 2]]), np.array([[0, 0, 1, 1, 255]]))
    record = ImageRecord.of("x", matrix)
    assert record.as_json() == {"name": "x", "counts": [[0, 0, 1], [0, 1, 1], [1, 1, 1], [1, 3, 1]], "miou": 0.416667}
    again = ImageRecord.from_json(record.as_json(), tmp_path)
    assert (again.name, again.miou) == ("x", 0.416667)
    assert (add_up(matrix.names, [again, again]).counts == 2 * matrix.counts).all()
    ignored = ConfusionMatrix(("a", "b"))
    ignored.update(np.array([[0]]), np.array([[255]]))
    assert ImageRecord.of("y", ignored).as_json() == {"name": "y", "counts": [], "miou": None}
    assert ImageRecord.from_json({"name": "y", "counts": [], "miou": None}, tmp_path).counts.shape == (0, 3)
    for damage in ({"counts": [[1, 2]]}, {"counts": [[1, 2, "x"]]}, {"counts": None}, {"counts": [[1, 2, 3], [4]]}):
        with pytest.raises(DataError, match=r"images\.jsonl: the record of 'x' is damaged: remove its line"):
            ImageRecord.from_json(record.as_json() | damage, tmp_path / "images.jsonl")
    with pytest.raises(DataError, match="the record of None is damaged"):
        ImageRecord.from_json({"counts": [], "miou": None}, tmp_path)


def test_the_hash_of_names_is_that_of_any_order():
    assert hash_names(["b", "a"]) == hash_names(iter(["a", "b"])) == "7e18f737311b2dc3"
    assert hash_names(["ab"]) != hash_names(["a", "b"])


def test_only_folders_of_one_run_merge(tmp_path, ade):
    ade("out")
    ade("other", refine=True)
    with pytest.raises(
        InputError, match=r"other and .*out belong to different runs \(refine: false before, true now\)"
    ):
        read_run([tmp_path / "out", tmp_path / "other"])
    with pytest.raises(DataError, match="holds no evaluation"):
        read_run([tmp_path])


# --- resuming --------------------------------------------------------------------------------------------------------


def test_resumed_run_equals_one_run_and_does_nothing_twice(tmp_path, ade):
    whole, _ = ade("out", batch_size=1)
    path = tmp_path / "out" / "images-1-of-1.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][: len(lines[1]) // 2])  # killed while writing the second image
    again, segmenter = ade("out", batch_size=1)
    assert len(segmenter.asked) == 2
    assert (again.matrix.counts == whole.matrix.counts).all()
    assert path.read_bytes() == b"".join(lines)


def test_only_records_of_the_runs_own_images_count(tmp_path, ade):
    whole, _ = ade("out")
    path = tmp_path / "out" / "images-1-of-1.jsonl"
    lines = path.read_text()
    first = lines.splitlines()[0]
    path.write_text(lines + first + "\n" + first.replace("000000000139", "another") + "\n")
    again, _ = ade("out")
    assert (again.matrix.counts == whole.matrix.counts).all()
    assert path.read_text() == lines


def test_other_settings_are_refused(tmp_path, ade):
    ade("out")
    with pytest.raises(InputError, match=r"out holds a run with other settings \(refine: false before, true now\)"):
        ade("out", refine=True)
    with pytest.raises(InputError, match=r"images\.count: 3 before, 2 now; .*limit: unset before, 2 now"):
        ade("out", limit=2)
    path = tmp_path / "out" / "images-1-of-1.jsonl"
    path.write_text('{"name": "x"}\n' + path.read_text())
    with pytest.raises(DataError, match="the record of 'x' is damaged"):
        ShardJournal(tmp_path / "out", read_config(tmp_path / "out" / "config.json"))


def test_a_damaged_or_lost_configuration(tmp_path, ade):
    ade("out")
    for content in ("{", "[]", "{}", '{"benchmark": "none"}'):
        (tmp_path / "out" / "config.json").write_text(content)
        for read in (lambda: ade("out"), lambda: read_run([tmp_path / "out"])):
            with pytest.raises(DataError, match=r"config.json is damaged"):
                read()
    (tmp_path / "out" / "config.json").unlink()
    with pytest.raises(DataError, match=r"images-1-of-1.jsonl but no config.json"):
        ade("out")


def test_a_run_that_failed_at_its_first_image_can_be_replaced(tmp_path, oracle):
    truth = make_miniature("voc21", tmp_path)
    voc = {"benchmark": "voc21", "data": tmp_path}
    image = tmp_path / "VOCdevkit/VOC2012/JPEGImages/000000000139.jpg"
    content = image.read_bytes()
    image.write_bytes(content[:200])
    with pytest.raises(Talk2DinoError, match="000000000139"):
        run(oracle(truth.values()), tmp_path / "out", refine=True, **voc)
    image.write_bytes(content)
    assert len(run(oracle(truth.values()), tmp_path / "out", **voc).records) == 3


def test_a_bad_file_does_not_lose_the_images_before_it(tmp_path, ade):
    bad = tmp_path / "ade/ADEChallengeData2016/annotations/validation/000000000632.png"
    content = bad.read_bytes()
    bad.write_bytes(content[:40])
    with pytest.raises(DataError, match="000000000632"):
        ade("out", batch_size=3)
    bad.write_bytes(content)
    outcome, segmenter = ade("out", batch_size=3)
    assert len(outcome.records) == 3
    assert [count for count, _ in segmenter.asked] == [1]  # the two before it were kept


def test_full_disk(tmp_path, ade, monkeypatch):
    ade("whole")

    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"images-1-of-1.jsonl: the disk is full; free some space"):
            ade("out")
    ade("out")
    journals = [(tmp_path / name / "images-1-of-1.jsonl").read_text() for name in ("whole", "out")]
    assert journals[0] == journals[1]


def test_a_second_process_is_refused_and_after_kill_9_resuming_equals_one_run(micro, tmp_path):
    command = [
        sys.executable, "-m", "talk2dino", "evaluate", "--benchmark", "world", "--model", "micro", "--limit", "16",
        "--device", "cpu", "--batch-size", "2", "--out", str(tmp_path / "killed"),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = tmp_path / "killed" / "images-1-of-1.jsonl"
    try:
        while not path.exists() or path.read_bytes().count(b"\n") < 3:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGSTOP)  # in the middle of its work
        before = path.read_bytes()
        second = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert second.returncode == 1
        assert f"another run is writing to {tmp_path}/killed (process {process.pid} on" in " ".join(
            second.stderr.split()
        )
        assert path.read_bytes() == before
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = path.read_bytes().count(b"\n")
    assert 3 <= done < 16
    assert read_run([tmp_path / "killed"]).missing == f"shard 1 of 1: {done} of 16 images"
    for name in ("killed", "whole"):
        run(micro, tmp_path / name, benchmark="world", model="micro", limit=16, device="cpu", batch_size=2)
    journals = [(tmp_path / name / "images-1-of-1.jsonl").read_bytes() for name in ("whole", "killed")]
    assert journals[0] == journals[1]
    assert read_run([tmp_path / "killed"]).missing is None


def test_shards_are_written_side_by_side_and_each_once(tmp_path, ade):
    config = ade("out", shard=(1, 2))[0].config
    with open_shard(tmp_path / "out", config, (1, 2)):
        with pytest.raises(OutputError, match="another run is writing to"):
            ade("out", shard=(1, 2))
        ade("out", shard=(2, 2))
    assert read_run([tmp_path / "out"]).missing is None
    assert not list((tmp_path / "out").glob(".*"))


def test_a_run_that_has_not_finished_its_first_image_is_not_replaced(tmp_path, ade):
    """Otherwise it would write its records beside a configuration of other settings."""
    config = ade()[0].config
    with open_shard(tmp_path / "out", config, (1, 2)):
        with pytest.raises(OutputError, match="another run is writing to"):
            ade("out", shard=(2, 2), refine=True)
        assert read_config(tmp_path / "out" / "config.json") == config
    ade("out", shard=(2, 2), refine=True)
    assert read_config(tmp_path / "out" / "config.json")["refine"] is True


# --- runs of 0.1.0 ---------------------------------------------------------------------------------------------------


def as_version_0_1_0(folder, **changes):
    """Turn the folder of a run into what version 0.1.0 wrote."""
    (folder / "images-1-of-1.jsonl").rename(folder / "pictures-1-of-1.jsonl")
    config = json.loads((folder / "config.json").read_text())
    del config["protocol"], config["matched"]
    (folder / "config.json").write_text(json.dumps(config | {"pictures": config.pop("images"), **changes}))


def test_a_run_of_0_1_0_is_reported_but_not_resumed(tmp_path, ade):
    whole, _ = ade("out")
    as_version_0_1_0(tmp_path / "out")
    old = read_run([tmp_path / "out"])
    assert old.missing is None
    assert (old.matrix.counts == whole.matrix.counts).all()
    assert report_run(old).metrics.miou == whole.metrics.miou
    with pytest.raises(InputError, match="a run of an earlier version of talk2dino, which resized images differently"):
        ade("out")


def test_clusters_of_0_1_0_are_matched_as_then(tmp_path, oracle):
    truth = make_miniature("ade20k", tmp_path)
    swapped = oracle(truth.values(), lambda labels: np.where(labels < 3, (labels + 1) % 3, labels))
    for matching, miou in (("benchmark", 1.0), ("picture", 1 / 4)):
        folder = tmp_path / matching
        run(swapped, folder, benchmark="ade20k", data=tmp_path)
        as_version_0_1_0(folder, method="dino-clusters", system={"matching": matching})
        assert report_run(read_run([folder])).metrics.miou == pytest.approx(miou)


# --- what made the results -------------------------------------------------------------------------------------------


def test_the_configuration_is_what_was_loaded(micro, tmp_path):
    make_miniature("voc21", tmp_path)
    voc = {"benchmark": "voc21", "data": tmp_path, "limit": 1, "mode": "whole"}
    config = run(micro, batch_size=5, **voc).config
    assert config["model"] == "micro"  # "auto" was asked for
    assert config["dtype"] == "float32"
    assert (config["background"], config["clean"], config["cleaning"]) == (0.58, True, "published")
    assert config["templates"] == ["{}"]
    assert config["labels"] == {"NAME.png": 1}
    assert config["images"]["count"] == 1
    towers = ("vision", "text", "projection")
    assert config["fingerprints"] == {name: weights_checksum(getattr(micro, name)) for name in towers}
    assert config["run"] == {
        "model": "auto", "projection": None, "source": micro.config.source, "data": str(tmp_path), "device": "cpu",
        "engine": "torch", "batch_size": 5, "threshold_source": micro.method.threshold_source,
    }  # fmt: skip
    clip = run(micro, method="clip-dense", **voc).config
    assert (clip["background"], clip["cleaning"], clip["system"]) == (0.2, None, {"variant": "values"})
    assert list(clip["fingerprints"]) == ["clip_vision", "text"]


def test_what_made_the_results_must_stay_the_same(tmp_path, micro):
    make_miniature("ade20k", tmp_path)
    words = tmp_path / "words.txt"
    words.write_text("wall = wall | fence\n")
    ade = {"benchmark": "ade20k", "data": tmp_path, "mode": "square", "limit": 2}
    run(micro, tmp_path / "out", synonyms=words, **ade)
    words.rename(tmp_path / "renamed.txt")  # the same words: the same run
    ade["synonyms"] = tmp_path / "renamed.txt"
    run(micro, tmp_path / "out", **ade)
    ade["synonyms"].write_text("wall = wall | hedge\n")
    with pytest.raises(InputError, match=r'settings \(fingerprints\.synonyms: "\w+" before, "\w+" now\)'):
        run(micro, tmp_path / "out", **ade)
    ade["synonyms"].write_text("wall = wall | fence\n")
    towers = copy.copy(micro.towers)
    towers.projection = copy.deepcopy(micro.projection)
    with torch.no_grad():
        next(towers.projection.parameters())[0] += 1
    with pytest.raises(InputError, match=r"settings \(fingerprints\.projection: "):
        run(type(micro)(towers), tmp_path / "out", **ade)


def test_list_of_images(tmp_path, oracle):
    truth = make_miniature("voc21", tmp_path)
    listing = tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt"
    names = listing.read_bytes()
    listing.write_bytes(b"\xef\xbb\xbf" + names + names)  # with a byte order mark, and each name twice
    assert len(run(oracle(truth.values()), benchmark="voc21", data=tmp_path).records) == 3
    listing.write_bytes(b"\xff" + names)
    with pytest.raises(DataError, match=r"cannot read the list of images .*val.txt: "):
        open_benchmark("voc21", tmp_path)
    assert get_benchmark("voc21").background
