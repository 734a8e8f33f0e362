import copy
import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from talk2dino.errors import DataError, InputError, OutputError, PromptError, Talk2DinoError
from talk2dino.evaluation.datasets import BENCHMARKS, open_benchmark
from talk2dino.evaluation.journal import Journal, add_up, read_config, read_journals
from talk2dino.evaluation.matching import cluster_classes, final_metrics, final_records, permuted
from talk2dino.evaluation.metrics import ConfusionMatrix
from talk2dino.evaluation.miniature import make_miniature
from talk2dino.evaluation.options import EvaluationOptions, make_options, parse_shard, read_options_file
from talk2dino.evaluation.protocol import evaluate, run
from talk2dino.models.fingerprint import weights_checksum
from talk2dino.world import CLASS_NAMES, render, sample_scene

EIGHT = [name for name in BENCHMARKS if name != "world"]


# --- the published protocol ------------------------------------------------------------------------------------------


def literal_protocol(resize, system, picture, names, channel=None, **settings):
    """mmsegmentation's slide inference, written out: one window at a time, counted pixel by pixel."""
    window = system.config.size if hasattr(system, "config") else system.loop.size
    stride = window // 2
    height, width = picture.shape[:2]
    scale = min(window * 2048 / 448 / max(height, width), window / min(height, width))
    resized = resize(picture, (int(height * scale + 0.5), int(width * scale + 0.5)))
    rows, columns = resized.shape[:2]
    total = torch.zeros(len(names) + (channel is not None), rows, columns)
    count = torch.zeros(1, rows, columns)
    y = 0
    while True:
        bottom = min(y + window, rows)
        top = max(bottom - window, 0)
        x = 0
        while True:
            right = min(x + window, columns)
            left = max(right - window, 0)
            crop = resized[top:bottom, left:right].copy()
            assert crop.shape[:2] == (window, window)
            scores = system.segment(crop, names, mode="square", return_scores=True, **settings).scores
            if channel is not None:  # the background: a constant in front
                scores = np.concatenate([np.full((1, window, window), channel, np.float32), scores])
            total[:, top:bottom, left:right] += torch.from_numpy(scores)
            count[:, top:bottom, left:right] += 1
            if right == columns:
                break
            x += stride
        if bottom == rows:
            break
        y += stride
    averaged = (total / count)[None]
    return F.interpolate(averaged, (height, width), mode="bilinear", align_corners=False)[0].numpy()


@pytest.mark.parametrize(("clean", "refine"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("batch", [1, 8])
def test_slide_equals_the_literal_protocol(micro, monkeypatch, protocol_resize, clean, refine, batch):
    picture = render(sample_scene(900_005, aspect=211 / 97), 97).image
    names = list(CLASS_NAMES[:5])
    expected = literal_protocol(protocol_resize, micro, picture, names, 0.55, clean=clean, refine=refine)
    monkeypatch.setattr("talk2dino.segmenter.WINDOW_BATCH", batch)
    found = micro.segment(picture, names, mode="slide", background=0.55, clean=clean, refine=refine, return_scores=True)
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)
    assert (found.labels == expected.argmax(0)).mean() > 0.9999  # ties apart
    assert 0 < (found.labels == 0).mean() < 1


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("method", ["clip-dense", "freeda"])
def test_comparison_systems_slide_alike(micro, prototypes, protocol_resize, method, refine):
    picture = render(sample_scene(900_006, aspect=197 / 101), 101).image
    own = {"prototypes": prototypes, "nearest": 5} if method == "freeda" else {}
    system = micro.with_method(method, **own)
    names = ["sky", "grass", "ball"]
    expected = literal_protocol(protocol_resize, system, picture, names, refine=refine)
    for batch in (1, 3):
        system.loop.batch = batch
        found = system.segment(picture, names, mode="slide", refine=refine, return_scores=True)
        np.testing.assert_allclose(found.scores, expected, atol=1e-5)


def test_comparison_systems_fill_their_batches_too(micro):
    system = micro.with_method("clip-dense")
    pictures = [
        render(sample_scene(900_010 + i, aspect=aspect), 90).image for i, aspect in enumerate((4 / 3, 3 / 4, 2))
    ]
    sizes, inner = [], system.score_maps
    system.score_maps = lambda pixels, text: (sizes.append(len(pixels)), inner(pixels, text))[1]
    names = ["sky", "grass"]
    together = system.segment_batch(pictures, names, mode="slide", return_scores=True)
    assert sizes == [7]  # two, two and three windows
    for picture, result in zip(pictures, together, strict=True):
        alone = system.segment(picture, names, mode="slide", return_scores=True)
        np.testing.assert_allclose(alone.scores, result.scores, atol=1e-5)


# --- benchmarks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EIGHT)
def test_perfect_predictor_scores_100_and_gets_the_protocol(tmp_path, oracle, name):
    truth = make_miniature(name, tmp_path)
    benchmark = BENCHMARKS[name]
    system = oracle(truth.values(), benchmark.background)
    outcome = evaluate(system, EvaluationOptions(benchmark=name, data=tmp_path), batch_size=2)
    assert outcome.metrics.miou == 1.0
    assert len(outcome.records) == 3
    assert [count for count, _ in system.asked] == [2, 1]
    assert list(system.prompts) == list(benchmark.prompts)
    settings = system.asked[0][1]
    assert settings["mode"] == "slide"
    assert settings["clean"] == (name in ("voc21", "coco-object"))
    assert settings.get("background") == (True if benchmark.background else None)
    assert settings["refine"] is False


def test_all_background_and_all_ignored_pictures_count_as_they_should(tmp_path, oracle):
    truth = make_miniature("voc21", tmp_path)
    wrong = oracle(truth.values(), True, lambda labels: np.full_like(labels, 3))
    outcome = evaluate(wrong, EvaluationOptions(benchmark="voc21", data=tmp_path))
    ignored = outcome.records[2]
    assert (ignored.counts.size, ignored.miou) == (0, None)
    assert outcome.records[1].counts.tolist() == [[0, 3, 61 * 43]]


def test_overriding_the_protocol(tmp_path, oracle):
    truth = make_miniature("voc21", tmp_path)
    system = oracle(truth.values(), True)
    options = EvaluationOptions(
        benchmark="voc21", data=tmp_path, mode="whole", background=0.4, clean=False, refine=True, limit=2
    )
    assert len(evaluate(system, options).records) == 2
    assert system.asked == [(2, {"mode": "whole", "background": 0.4, "clean": False, "refine": True})]
    file = tmp_path / "synonyms.txt"
    file.write_text("cat = kitten | cat\n")
    evaluate(system, EvaluationOptions(benchmark="voc21", data=tmp_path, synonyms=file))
    assert system.prompts["cat"] == ["kitten", "cat"]
    assert system.prompts["dog"] == ["dog"]
    file.write_text("kat = cat\n")
    with pytest.raises(PromptError, match="voc21 lacks: kat"):
        evaluate(system, EvaluationOptions(benchmark="voc21", data=tmp_path, synonyms=file))
    make_miniature("ade20k", tmp_path)
    with pytest.raises(InputError, match="ade20k has no background"):
        evaluate(system, EvaluationOptions(benchmark="ade20k", data=tmp_path, background=0.5))


# --- shards, merging, resuming ---------------------------------------------------------------------------------------


def spoiled(labels):
    return np.where(np.arange(labels.shape[1]) % 3 == 0, 0, labels)


def test_shards_merged_equal_one_run(tmp_path, oracle):
    truth = make_miniature("ade20k", tmp_path)
    options = EvaluationOptions(benchmark="ade20k", data=tmp_path)
    whole = evaluate(oracle(truth.values(), False, spoiled), options)
    for number in (1, 2):
        run(options, tmp_path / f"part{number}", shard=(number, 2), method=oracle(truth.values(), False, spoiled))
    run(options, tmp_path / "both", shard=(1, 2), method=oracle(truth.values(), False, spoiled))
    run(options, tmp_path / "both", shard=(2, 2), method=oracle(truth.values(), False, spoiled))
    for folders in ([tmp_path / "part2", tmp_path / "part1"], [tmp_path / "both"]):
        config, records, missing = read_journals(folders)
        assert missing is None
        assert sorted(r.name for r in records) == sorted(truth)
        assert (add_up(BENCHMARKS["ade20k"].names, records).counts == whole.matrix.counts).all()
        assert config["pictures"]["count"] == 3
    assert read_journals([tmp_path / "part2"])[2] == "shard 1 of 2 is missing"


def test_unfinished_shards_are_told_from_finished_ones(tmp_path, oracle):
    truth = make_miniature("ade20k", tmp_path)
    options = EvaluationOptions(benchmark="ade20k", data=tmp_path)
    for name, shard in (("a", (1, 2)), ("b", (2, 2)), ("whole", (1, 1))):
        run(options, tmp_path / name, shard=shard, method=oracle(truth.values(), False, spoiled))
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    assert read_journals([tmp_path / "a", tmp_path / "b", tmp_path / "copy"])[2] is None  # the same records: once
    assert len(read_journals([tmp_path / "a", tmp_path / "b", tmp_path / "copy"])[1]) == 3
    for name, file in (("copy", "pictures-1-of-2.jsonl"), ("whole", "pictures-1-of-1.jsonl")):
        path = tmp_path / name / file  # stopped after its first picture
        path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    assert read_journals([tmp_path / "copy", tmp_path / "b"])[2] == "shard 1 of 2: 1 of 2 pictures"
    assert read_journals([tmp_path / "copy"])[2] == "shard 2 of 2 is missing; shard 1 of 2: 1 of 2 pictures"
    assert read_journals([tmp_path / "whole"])[2] == "shard 1 of 1: 1 of 3 pictures"
    with pytest.raises(InputError, match="are the same shard with different records"):
        read_journals([tmp_path / "a", tmp_path / "copy"])
    path = tmp_path / "b" / "pictures-2-of-2.jsonl"
    path.write_text(path.read_text().replace("000000000285", "000000000286"))
    with pytest.raises(DataError, match=r"other pictures than their config\.json tells"):
        read_journals([tmp_path / "a", tmp_path / "b"])
    path.write_text((tmp_path / "a" / "pictures-1-of-2.jsonl").read_text())
    with pytest.raises(DataError, match="shard 2 of 2 has 2 pictures, but its run 1"):
        read_journals([tmp_path / "a", tmp_path / "b"])


def test_only_records_of_the_runs_own_pictures_count(tmp_path, oracle):
    truth = make_miniature("ade20k", tmp_path)
    options = EvaluationOptions(benchmark="ade20k", data=tmp_path)
    whole, _ = run(options, tmp_path / "out", method=oracle(truth.values(), False))
    path = tmp_path / "out" / "pictures-1-of-1.jsonl"
    lines = path.read_text()
    first = lines.splitlines()[0]
    path.write_text(lines + first + "\n" + first.replace("000000000139", "somebody-elses") + "\n")
    again, _ = run(options, tmp_path / "out", method=oracle(truth.values(), False))
    assert (again.matrix.counts == whole.matrix.counts).all()
    assert path.read_text() == lines


# --- what produced the results ---------------------------------------------------------------------------------------


def test_the_configuration_is_what_was_loaded(micro, tmp_path):
    make_miniature("voc21", tmp_path)
    options = EvaluationOptions(benchmark="voc21", data=tmp_path, limit=1, mode="whole")
    config = evaluate(micro, options, batch_size=5).config
    assert config["model"] == "micro"  # "auto" was asked for
    assert config["dtype"] == "float32"
    assert (config["background"], config["clean"], config["cleaning"]) == (0.58, True, "published")
    assert config["templates"] == ["{}"]
    assert config["labels"] == {"NAME.png": 1}
    assert config["pictures"]["count"] == 1
    assert config["fingerprints"] == {
        name: weights_checksum(getattr(micro, name)) for name in ("vision", "text", "projection")
    }
    assert config["run"] == {
        "model": "auto", "projection": None, "source": micro.config.source, "data": str(tmp_path), "device": "cpu",
        "engine": "torch", "batch_size": 5,
    }  # fmt: skip
    clip = evaluate(micro.with_method("clip-dense"), options.model_copy(update={"method": "clip-dense"})).config
    assert (clip["background"], clip["cleaning"], clip["system"]) == (0.2, None, {"variant": "values"})
    assert list(clip["fingerprints"]) == ["clip_vision", "text"]


def test_what_produced_the_results_must_stay_the_same(tmp_path, micro):
    make_miniature("ade20k", tmp_path)
    words = tmp_path / "words.txt"
    words.write_text("wall = wall | fence\n")
    options = EvaluationOptions(benchmark="ade20k", data=tmp_path, mode="square", synonyms=words, limit=2)
    run(options, tmp_path / "out", method=micro)
    words.rename(tmp_path / "renamed.txt")  # the same words: the same run
    options = options.model_copy(update={"synonyms": tmp_path / "renamed.txt"})
    run(options, tmp_path / "out", method=micro)
    (tmp_path / "renamed.txt").write_text("wall = wall | hedge\n")
    with pytest.raises(InputError, match=r"another run \(fingerprints\.synonyms: '\w+' there, '\w+' now\)"):
        run(options, tmp_path / "out", method=micro)
    (tmp_path / "renamed.txt").write_text("wall = wall | fence\n")
    other = copy.copy(micro)
    other.projection = copy.deepcopy(micro.projection)
    with torch.no_grad():
        next(other.projection.parameters())[0] += 1
    with pytest.raises(InputError, match=r"another run \(fingerprints\.projection: "):
        run(options, tmp_path / "out", method=other)
    with pytest.raises(InputError, match=r"limit: 2 there, 3 now; pictures\.count: 2 there, 3 now; pict"):
        run(options.model_copy(update={"limit": 3}), tmp_path / "out", method=micro)


def test_a_call_that_failed_binds_nobody(tmp_path, oracle, micro):
    truth = make_miniature("voc21", tmp_path)
    options = EvaluationOptions(benchmark="voc21", data=tmp_path)
    with pytest.raises(InputError, match="threshold must be from 0 to 1"):
        run(options.model_copy(update={"background": -0.5}), tmp_path / "out", method=micro)
    assert not (tmp_path / "out").exists()
    picture = tmp_path / "VOCdevkit/VOC2012/JPEGImages/000000000139.jpg"
    content = picture.read_bytes()
    picture.write_bytes(content[:200])
    with pytest.raises(Talk2DinoError, match="000000000139"):  # fails at its first picture, after the journal was made
        run(options.model_copy(update={"refine": True}), tmp_path / "out", method=oracle(truth.values(), True))
    picture.write_bytes(content)
    assert len(run(options, tmp_path / "out", method=oracle(truth.values(), True))[0].records) == 3


def test_a_bad_file_does_not_lose_the_pictures_before_it(tmp_path, oracle):
    truth = make_miniature("ade20k", tmp_path)
    bad = tmp_path / "ade/ADEChallengeData2016/annotations/validation/000000000632.png"
    content = bad.read_bytes()
    bad.write_bytes(content[:40])
    options = EvaluationOptions(benchmark="ade20k", data=tmp_path)
    with pytest.raises(DataError, match="000000000632"):
        run(options, tmp_path / "out", method=oracle(truth.values(), False), batch_size=3)
    bad.write_bytes(content)
    system = oracle(truth.values(), False)
    assert len(run(options, tmp_path / "out", method=system, batch_size=3)[0].records) == 3
    assert [count for count, _ in system.asked] == [1]  # the two before it were kept


def test_resumed_run_equals_one_run_and_does_nothing_twice(tmp_path, oracle):
    truth = make_miniature("voc21", tmp_path)
    options = EvaluationOptions(benchmark="voc21", data=tmp_path)
    whole, _ = run(options, tmp_path / "whole", method=oracle(truth.values(), True, spoiled), batch_size=1)
    path = tmp_path / "whole" / "pictures-1-of-1.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][: len(lines[1]) // 2])  # killed while writing the second picture
    system = oracle(truth.values(), True, spoiled)
    again, _ = run(options, tmp_path / "whole", method=system, batch_size=1)
    assert len(system.asked) == 2
    assert (again.matrix.counts == whole.matrix.counts).all()
    assert path.read_bytes() == b"".join(lines)


def test_another_configuration_is_refused(tmp_path, oracle):
    truth = make_miniature("voc21", tmp_path)
    system = oracle(truth.values(), True)
    options = EvaluationOptions(benchmark="voc21", data=tmp_path)
    run(options, tmp_path / "out", method=system)
    with pytest.raises(InputError, match=r"another run \(refine: False there, True now\)"):
        run(EvaluationOptions(benchmark="voc21", data=tmp_path, refine=True), tmp_path / "out", method=system)
    with pytest.raises(InputError, match="in 1 shards, not 2"):
        run(options, tmp_path / "out", shard=(1, 2), method=system)
    run(EvaluationOptions(benchmark="voc21", data=tmp_path, refine=True), tmp_path / "other", method=system)
    with pytest.raises(InputError, match="another run"):
        read_journals([tmp_path / "out", tmp_path / "other"])
    with pytest.raises(DataError, match="holds no evaluation"):
        read_journals([tmp_path])
    journal = tmp_path / "out" / "pictures-1-of-1.jsonl"
    journal.write_text('{"name": "x"}\n' + journal.read_text())
    with pytest.raises(DataError, match="line 1 is damaged"):
        Journal(tmp_path / "out", read_config(tmp_path / "out" / "config.json"))


def test_kill_9_in_the_middle_and_resume_equal_one_run(micro, tmp_path):
    command = [
        sys.executable, "-m", "talk2dino", "evaluate", "--benchmark", "world", "--model", "micro", "--limit", "16",
        "--device", "cpu", "--dtype", "float32", "--batch-size", "2", "--out", str(tmp_path / "killed"),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = tmp_path / "killed" / "pictures-1-of-1.jsonl"
    try:
        while not path.exists() or path.read_bytes().count(b"\n") < 3:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = path.read_bytes().count(b"\n")
    assert 3 <= done < 16
    assert read_journals([tmp_path / "killed"])[2] == f"shard 1 of 1: {done} of 16 pictures"
    options = EvaluationOptions(benchmark="world", model="micro", limit=16, device="cpu", dtype="float32")
    for name in ("killed", "whole"):
        run(options, tmp_path / name, method=micro, batch_size=2)
    journals = [(tmp_path / name / "pictures-1-of-1.jsonl").read_bytes() for name in ("whole", "killed")]
    assert journals[0] == journals[1]
    assert read_journals([tmp_path / "killed"])[2] is None


def test_talk2dino_is_15_points_ahead_of_dense_clip(micro):
    figures = {
        name: evaluate(micro.with_method(name), EvaluationOptions(benchmark="world", method=name, limit=20)).metrics
        for name in ("talk2dino", "clip-dense")
    }
    assert figures["talk2dino"].miou > figures["clip-dense"].miou + 0.15
    assert figures["talk2dino"].miou > 0.6


# --- systems without words -------------------------------------------------------------------------------------------


def test_clusters_are_matched_once_over_the_whole_run():
    matrix = ConfusionMatrix(("a", "b", "c"))
    matrix.update(np.array([[1, 1, 1, 0, 0, 2]]), np.array([[0, 0, 2, 1, 1, 1]]))
    classes = cluster_classes(matrix)
    assert classes.tolist() == [1, 0, -1]  # cluster 2 shares pixels only with class 1, which is taken
    config = {"method": "dino-clusters", "method_options": {}}
    figures = final_metrics(matrix, config)
    np.testing.assert_allclose(figures.iou, [2 / 3, 2 / 3, 0])
    assert permuted(matrix, classes).counts[:, -1].tolist() == [0, 1, 0]
    assert final_metrics(matrix, config | {"method_options": {"matching": "picture"}}).miou == matrix.metrics().miou
    assert final_metrics(matrix, config | {"method": "freeda"}).miou == matrix.metrics().miou


def test_dino_clusters_run_in_both_matchings(micro, tmp_path):
    figures = {}
    for matching in ("benchmark", "picture"):
        options = EvaluationOptions(
            benchmark="world", method="dino-clusters", method_options={"matching": matching}, limit=12
        )
        system = micro.with_method("dino-clusters", matching=matching)
        outcome, _ = run(options, tmp_path / matching, method=system)
        figures[matching] = outcome.metrics.overall_accuracy
        records = final_records(outcome.records, outcome.matrix, outcome.config)
        assert all(0 < record.miou <= 1 for record in records)
        assert len(outcome.predict.settings.get("vocabulary", range(16))) == 16
        assert not hasattr(system, "vocabulary")  # a run leaves the system as it was
    assert 0.5 < figures["benchmark"] <= figures["picture"] + 0.1
    assert figures["picture"] > 0.6


# --- options ---------------------------------------------------------------------------------------------------------


def test_world_options(oracle):
    scenes = [render(sample_scene(10_000_000 + i, held_out=True)) for i in range(2)]
    system = oracle([scenes[0].labels], False)
    evaluate(system, EvaluationOptions(benchmark="world", prompts="upper", held_out="one", limit=1))
    assert system.prompts["sky"] == ["SKY"]
    assert system.asked == [(1, {"mode": "whole", "clean": False, "refine": False})]


def test_wrong_options_are_named(tmp_path):
    with pytest.raises(InputError, match=r"option mode: .*'slide', 'whole' or 'square'.*'tiles'"):
        make_options({"benchmark": "world", "mode": "tiles"})
    with pytest.raises(InputError, match="option treshold"):
        make_options({"benchmark": "world", "treshold": 0.5})
    with pytest.raises(InputError, match="did you mean voc21"):
        make_options({"benchmark": "voc2"})
    with pytest.raises(InputError, match="did you mean freeda"):
        make_options({"benchmark": "world", "method": "frida"})
    with pytest.raises(InputError, match="belong to the world benchmark"):
        make_options({"benchmark": "voc21", "held_out": "all"})
    with pytest.raises(InputError, match="prompt variant 'latin'"):
        make_options({"benchmark": "world", "prompts": "latin"})
    file = tmp_path / "run.yaml"
    file.write_text("benchmark: world\nlimit: 3\n")
    assert make_options(read_options_file(file)).limit == 3
    file.write_text("benchmark: world\nmethod_options: 5\n")
    with pytest.raises(InputError, match="method_options must hold"):
        read_options_file(file)
    file.write_text("- a\n")
    with pytest.raises(InputError, match="name: value"):
        read_options_file(file)
    assert parse_shard("2/8") == (2, 8)
    for wrong in ("0/2", "3/2", "1", "a/b", "1/0"):
        with pytest.raises(InputError, match="i/n"):
            parse_shard(wrong)


def test_dino_clusters_and_world_have_their_own_mode():
    assert EvaluationOptions(benchmark="voc21").mode_used == "slide"
    assert EvaluationOptions(benchmark="world").mode_used == "whole"
    assert EvaluationOptions(benchmark="voc21", method="dino-clusters").mode_used == "whole"
    assert EvaluationOptions(benchmark="voc21", method="freeda").clean_used is False
    assert EvaluationOptions(benchmark="voc21").clean_used is True


def test_a_shard_without_pictures_takes_part_in_the_merge(tmp_path, oracle):
    truth = make_miniature("ade20k", tmp_path)
    options = EvaluationOptions(benchmark="ade20k", data=tmp_path)
    for number in range(1, 5):  # of three pictures
        run(options, tmp_path / "out", shard=(number, 4), method=oracle(truth.values(), False))
    _, records, missing = read_journals([tmp_path / "out"])
    assert missing is None
    assert len(records) == 3


def test_a_damaged_or_lost_configuration(tmp_path, oracle):
    truth = make_miniature("ade20k", tmp_path)
    options = EvaluationOptions(benchmark="ade20k", data=tmp_path)
    run(options, tmp_path / "out", method=oracle(truth.values(), False))
    for content in ("{", "[]", "{}", '{"benchmark": "none"}'):
        (tmp_path / "out" / "config.json").write_text(content)
        with pytest.raises(DataError, match=r"config.json is damaged"):
            Journal(tmp_path / "out", options.to_config())
        with pytest.raises(DataError, match=r"config.json is damaged"):
            read_journals([tmp_path / "out"])
    (tmp_path / "out" / "config.json").unlink()
    with pytest.raises(DataError, match=r"pictures-1-of-1.jsonl without the config.json"):
        Journal(tmp_path / "out", options.to_config())


def test_full_disk_while_evaluating(tmp_path, oracle, monkeypatch):
    truth = make_miniature("ade20k", tmp_path)
    options = EvaluationOptions(benchmark="ade20k", data=tmp_path)
    run(options, tmp_path / "whole", method=oracle(truth.values(), False))

    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"pictures-1-of-1.jsonl: the disk is full; free some space"):
            run(options, tmp_path / "out", method=oracle(truth.values(), False))
    run(options, tmp_path / "out", method=oracle(truth.values(), False))
    journals = [(tmp_path / name / "pictures-1-of-1.jsonl").read_text() for name in ("whole", "out")]
    assert journals[0] == journals[1]


def test_list_of_pictures(tmp_path, oracle):
    truth = make_miniature("voc21", tmp_path)
    listing = tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt"
    names = listing.read_bytes()
    options = EvaluationOptions(benchmark="voc21", data=tmp_path)
    listing.write_bytes(b"\xef\xbb\xbf" + names + names)  # with a byte order mark, and each name twice
    assert len(evaluate(oracle(truth.values(), True), options).records) == 3
    listing.write_bytes(b"\xff" + names)
    with pytest.raises(DataError, match=r"val.txt cannot be read as UTF-8 text with a name a line"):
        open_benchmark("voc21", tmp_path)


def test_systems_without_words_take_no_threshold(tmp_path, micro):
    make_miniature("voc21", tmp_path)
    system = micro.with_method("dino-clusters")
    for values in ({"background": 0.4}, {"clean": True}):
        options = EvaluationOptions(benchmark="voc21", data=tmp_path, method="dino-clusters", **values)
        with pytest.raises(InputError, match="dino-clusters has no background threshold and no cleaning"):
            evaluate(system, options)


def test_what_is_wrong_is_said_without_the_rest():
    for values, message in (
        ({"benchmark": "voc-21"}, "no benchmark named 'voc-21'; did you mean voc21 or voc20? known: voc21, voc20, "),
        ({"benchmark": "world", "treshold": 5}, "evaluation option treshold: there is none of that name (got 5)"),
        (
            {"benchmark": "world", "limits": 5},
            "evaluation option limits: there is none of that name; did you mean limit?",
        ),
    ):
        with pytest.raises(InputError) as caught:
            make_options(values)
        assert str(caught.value).startswith(message)
        assert "{" not in str(caught.value)
