import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import SIZE, D, M, fake_embed, fake_encoders, fake_vision, make_folder, run_extract
from PIL import Image

from talk2dino.captions import Skipped, open_source
from talk2dino.errors import DataError, InputError, OutputError, Talk2DinoWarning
from talk2dino.features.extraction import extract, preprocess
from talk2dino.features.manifest import Manifest
from talk2dino.features.options import ExtractOptions
from talk2dino.features.store import FeatureStore
from talk2dino.features.writer import ShardContents, StoreWriter, merge_stores
from talk2dino.io.lock import folder_lock
from talk2dino.io.settings import build_options
from talk2dino.models.preprocess import normalise
from talk2dino.stages.pooling import pooled_features

EVERYTHING = ("heads", "average", "cls", "patch_mean")


def contents(folder):
    """All files of a store by name, as bytes."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_features_are_the_models(tmp_path):
    source = open_source(make_folder(tmp_path / "in"))
    manifest = run_extract(source, tmp_path / "out", fake_encoders(), features=EVERYTHING)
    assert (manifest.images, manifest.captions, len(manifest.shards)) == (23, 46, 5)
    store = FeatureStore.open(tmp_path / "out", verify=True)
    assert store.shape("heads") == (M, D)
    for n, (_, record) in enumerate(source.records()):
        image = np.asarray(Image.open(tmp_path / "in" / record.key))
        out = fake_vision(normalise(preprocess(image, SIZE)[None]))
        for name, value in pooled_features(out.patches, out.attention, out.cls).items():
            torch.testing.assert_close(store.gather(name, torch.tensor([n])), value.half(), atol=2e-3, rtol=2e-3)
        rows = torch.where(store.caption_image == n)[0]
        assert torch.equal(store.gather("captions", rows), fake_embed(record.captions).half())
    lines = (tmp_path / "out" / "shard-00001.jsonl").read_text().splitlines()
    assert json.loads(lines[2]) == {"key": "0007.png", "captions": ["caption 7 0", "caption 7 1"]}


def test_skipped_records_are_listed(tmp_path):
    folder = make_folder(tmp_path / "in")
    (folder / "0003.png").write_bytes(b"not a picture")
    (folder / "0004.png").write_bytes((folder / "0004.png").read_bytes()[:300])
    (folder / "0011.txt").write_text("\n \n")
    Image.new("RGB", (1, 90)).save(folder / "0012.png")
    (folder / "0013.txt").write_text("word " * 5000)
    manifest = run_extract(open_source(folder), tmp_path / "out")
    assert (manifest.images, manifest.skipped) == (19, 4)
    lines = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert [(line["record"], line["key"]) for line in lines] == [
        (3, "0003.png"), (4, "0004.png"), (11, "0011.png"), (12, "0012.png"),
    ]  # fmt: skip
    assert "too elongated" in lines[3]["reason"]
    store = FeatureStore.open(tmp_path / "out")
    assert (store.num_images, store.num_captions) == (19, 37)


def test_too_many_skipped_stops_and_says_so(tmp_path):
    folder = make_folder(tmp_path / "in")
    for n in range(4):
        (folder / f"{5 * n:04d}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"4 of the first 23 records .* more than 5 % .*0015.png: .*skipped.jsonl"):
        run_extract(open_source(folder), tmp_path / "out", max_skipped=0.05)
    assert not Manifest.read(tmp_path / "out").complete
    assert len((tmp_path / "out" / "skipped.jsonl").read_text().splitlines()) == 4
    manifest = run_extract(open_source(folder), tmp_path / "out", max_skipped=0.2)
    assert manifest.complete
    assert len((tmp_path / "out" / "skipped.jsonl").read_text().splitlines()) == 4


def test_it_stops_early_once_enough_was_seen(tmp_path):
    folder = make_folder(tmp_path / "in", 160, 1)
    for n in range(90, 130):
        (folder / f"{n:04d}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"of the first 10\d records"):
        run_extract(open_source(folder), tmp_path / "out", max_skipped=0.05)


def test_killed_run_goes_on_to_the_identical_store(tmp_path):
    folder = make_folder(tmp_path / "in", 61)
    for n in (3, 17, 40):
        (folder / f"{n:04d}.png").write_bytes(b"bad")  # too short for any decoder
    script = str(Path(__file__).parents[1] / "helpers" / "run_extract.py")
    subprocess.run([sys.executable, script, str(folder), str(tmp_path / "whole"), "0"], check=True, timeout=120)
    for kill in range(4):
        process = subprocess.Popen([sys.executable, script, str(folder), str(tmp_path / "killed"), "0.03"])
        before = len(list((tmp_path / "killed").glob("shard-*.safetensors")))
        deadline = time.time() + 60
        while len(list((tmp_path / "killed").glob("shard-*.safetensors"))) <= before and time.time() < deadline:
            time.sleep(0.002)
        time.sleep(0.007 * kill)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not Manifest.read(tmp_path / "killed").complete
    subprocess.run([sys.executable, script, str(folder), str(tmp_path / "killed"), "0"], check=True, timeout=120)
    whole, killed = contents(tmp_path / "whole"), contents(tmp_path / "killed")
    assert whole == killed


def test_parts_merge_into_the_whole_store(tmp_path):
    source = open_source(make_folder(tmp_path / "in", 31))
    run_extract(source, tmp_path / "whole")
    for n in (1, 2, 3):
        run_extract(source, tmp_path / "out", shard=(n, 3))
    parts = [tmp_path / "out" / f"part-{n}-of-3" for n in (1, 2, 3)]
    assert [Manifest.read(part).part for part in parts] == [(0, 3), (1, 3), (2, 3)]
    assert sum(Manifest.read(part).images for part in parts) == 31
    assert FeatureStore.open(parts).num_images == 31
    merge_stores(parts, tmp_path / "merged")
    merge_stores([tmp_path / "out"], tmp_path / "of the folder")
    assert contents(tmp_path / "merged") == contents(tmp_path / "of the folder") == contents(tmp_path / "whole")
    with pytest.raises(DataError, match="a whole store has 3 parts, got 2; missing: 2/3"):
        merge_stores([parts[0], parts[2]], tmp_path / "two")
    with pytest.raises(DataError, match="got 4; missing: none"):
        merge_stores([*parts, parts[0]], tmp_path / "four")
    run_extract(source, tmp_path / "other", fake_encoders("other"), shard=(2, 3))
    with pytest.raises(
        DataError, match=r'not parts of one extraction: model.name: "fake" in the first, "other" in the '
    ):
        merge_stores([parts[0], tmp_path / "other" / "part-2-of-3", parts[2]], tmp_path / "bad")
    with pytest.raises(DataError, match=r"other settings \(shard: 1/3 before, 1/1 now\): choose another output folder"):
        run_extract(source, parts[0])


def test_parts_of_version_0_1_0_are_resumed_and_merged(tmp_path):
    """Their folders count from 0: part-000-of-002 is what --shard 1/2 makes."""
    source = open_source(make_folder(tmp_path / "in", 17))
    run_extract(source, tmp_path / "whole")
    for n in (1, 2):
        run_extract(source, tmp_path / "out", shard=(n, 2))
        (tmp_path / "out" / f"part-{n}-of-2").rename(tmp_path / "out" / f"part-00{n - 1}-of-002")
    first = tmp_path / "out" / "part-000-of-002"
    before = contents(first)
    (first / "shard-00002.safetensors").unlink()
    with pytest.warns(Talk2DinoWarning, match="making 1 damaged shard again"):
        run_extract(source, tmp_path / "out", shard=(1, 2))
    assert contents(first) == before
    assert len(list((tmp_path / "out").iterdir())) == 2
    merge_stores([tmp_path / "out"], tmp_path / "merged")
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")


def test_damage_is_named_and_mended(tmp_path):
    source = open_source(make_folder(tmp_path / "in"))
    run_extract(source, tmp_path / "out")
    whole = contents(tmp_path / "out")
    shard = tmp_path / "out" / "shard-00002.safetensors"
    damaged = bytearray(shard.read_bytes())
    damaged[-5] ^= 1
    shard.write_bytes(damaged)
    (tmp_path / "out" / "shard-00001.safetensors").unlink()
    with pytest.raises(DataError, match=r"1 of 5 shards .*shard-00001.safetensors is missing; run 'talk2dino "):
        FeatureStore.open(tmp_path / "out")
    with pytest.raises(DataError, match=r"2 of 5 shards .*shard-00002.safetensors is corrupted: its checksum"):
        FeatureStore.open(tmp_path / "out", verify=True)
    with pytest.warns(Talk2DinoWarning, match=r"making 2 damaged shards again: .*shard-00001.safetensors is missing; "):
        run_extract(source, tmp_path / "out")
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize(
    ("count", "said"), [(1, "1 damaged shard again"), (5, "5 damaged shards again"), (7, "and 2 more")]
)
def test_of_many_damaged_shards_five_are_named(tmp_path, count, said):
    source = open_source(make_folder(tmp_path / "in", 8, 1))
    run_extract(source, tmp_path / "out", records_per_shard=1)
    whole = contents(tmp_path / "out")
    for number in range(count):
        (tmp_path / "out" / f"shard-{number:05d}.safetensors").unlink()
    with pytest.warns(Talk2DinoWarning, match=said) as caught:
        run_extract(source, tmp_path / "out", records_per_shard=1)
    [warning] = [str(one.message) for one in caught]
    assert warning.count("is missing") == min(count, 5)
    assert (" more" in warning) == (count > 5)
    assert contents(tmp_path / "out") == whole


def test_skipped_records_of_shards_of_one_record(tmp_path):
    folder = make_folder(tmp_path / "in", 5, 1)
    (folder / "0003.png").write_bytes(b"bad")
    run_extract(open_source(folder), tmp_path / "out", records_per_shard=1)
    whole = contents(tmp_path / "out")
    run_extract(open_source(folder), tmp_path / "out", records_per_shard=1)  # nothing is damaged: no warning
    (tmp_path / "out" / "skipped.jsonl").write_text("")
    with pytest.warns(Talk2DinoWarning, match=r"1 damaged shard again: .*has lost records of shard 3$"):
        run_extract(open_source(folder), tmp_path / "out", records_per_shard=1)
    assert contents(tmp_path / "out") == whole
    assert json.loads(whole["skipped.jsonl"])["record"] == 3


def test_merging_refuses_nothing_and_unfinished_parts(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="there are no parts to merge"):
        merge_stores([], tmp_path / "out")
    source = open_source(make_folder(tmp_path / "in", 7))
    for n in (1, 2):
        run_extract(source, tmp_path / "parts", shard=(n, 2))
    parts = [tmp_path / "parts" / f"part-{n}-of-2" for n in (1, 2)]
    merge_stores(parts[::-1], tmp_path / "linked")
    linked = (tmp_path / "linked" / "shard-00000.safetensors").stat()
    assert linked.st_nlink == 2  # no second copy of the features
    monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(OSError(errno.EXDEV, "another disk")))
    merge_stores(parts, tmp_path / "copied")
    assert contents(tmp_path / "copied") == contents(tmp_path / "linked")
    assert (tmp_path / "copied" / "shard-00000.safetensors").stat().st_nlink == 1
    manifest = Manifest.read(parts[1])
    manifest.complete = False
    manifest.write(parts[1])
    with pytest.raises(DataError, match=r"part-2-of-2 is not finished: run its 'talk2dino extract' again"):
        merge_stores(parts, tmp_path / "unfinished")
    assert not (tmp_path / "unfinished").exists()


def test_stores_of_other_models_are_refused_by_name(tmp_path):
    source = open_source(make_folder(tmp_path / "in"))
    run_extract(source, tmp_path / "a")
    with pytest.raises(DataError, match=r'made with other settings \(model.name: "fake" before, "vitb" now\)'):
        run_extract(source, tmp_path / "a", fake_encoders("vitb"))
    run_extract(source, tmp_path / "b", fake_encoders("vitb"))
    with pytest.raises(DataError, match=r'cannot be used together: model.name: "fake" in the first, "vitb" in'):
        FeatureStore.open([tmp_path / "a", tmp_path / "b"])
    run_extract(source, tmp_path / "c", fake_encoders(), size=24)
    with pytest.raises(DataError, match=r"preprocessing.size: 16 in the first, 24 in the second"):
        FeatureStore.open([tmp_path / "a", tmp_path / "c"])
    more = open_source(make_folder(tmp_path / "more", 7, size=(31, 50)))
    run_extract(more, tmp_path / "d")
    assert FeatureStore.open([tmp_path / "a", tmp_path / "d"]).num_images == 30


def test_a_changed_source_is_refused(tmp_path):
    folder = make_folder(tmp_path / "in")
    run_extract(open_source(folder), tmp_path / "out")
    run_extract(open_source(folder), tmp_path / "parts", shard=(1, 2))
    (tmp_path / "out" / "shard-00001.safetensors").unlink()
    (folder / "0007.txt").write_text("another caption\n")
    with pytest.raises(DataError, match=r"content: \S+ before, \S+ now \(its captions or images have changed\)"):
        run_extract(open_source(folder), tmp_path / "out")
    run_extract(open_source(folder), tmp_path / "parts", shard=(2, 2))
    with pytest.raises(DataError, match=r"are not parts of one extraction: source.content: "):
        merge_stores([tmp_path / "parts"], tmp_path / "whole")


def test_stores_need_only_share_the_feature_that_is_read(tmp_path):
    folder = make_folder(tmp_path / "in", 7)
    run_extract(open_source(folder), tmp_path / "a", features=("cls", "heads"))
    written = contents(tmp_path / "a")
    (tmp_path / "a" / "shard-00000.safetensors").unlink()
    with pytest.warns(Talk2DinoWarning, match="making 1 damaged shard again"):
        run_extract(open_source(folder), tmp_path / "a", features=("heads", "cls", "heads"))
    assert contents(tmp_path / "a") == written
    more = open_source(make_folder(tmp_path / "more", 5, size=(31, 50)))
    run_extract(more, tmp_path / "b")
    both = FeatureStore.open([tmp_path / "a", tmp_path / "b"])
    assert both.gather("heads", torch.arange(12)).shape == (12, M, D)
    with pytest.raises(DataError, match="these stores share no feature 'cls', only: heads"):
        both.shape("cls")
    with pytest.raises(DataError, match=r'settings \(features: \["cls", "heads"\] before, \["heads"\] now\)'):
        run_extract(open_source(folder), tmp_path / "a")


def test_images_that_would_count_twice_are_refused(tmp_path):
    source = open_source(make_folder(tmp_path / "in", 7))
    run_extract(source, tmp_path / "a")
    with pytest.raises(DataError, match="a is given twice, so its images would count twice"):
        FeatureStore.open([tmp_path / "a", tmp_path / "in" / ".." / "a"])
    merge_stores([tmp_path / "a"], tmp_path / "b")
    with pytest.raises(DataError, match=r"b/shard-00000.safetensors holds the same images as .*a/shard-00000.safeten"):
        FeatureStore.open([tmp_path / "a", tmp_path / "b"])
    path = tmp_path / "a" / "manifest.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "shards": [*whole["shards"], whole["shards"][0]]}))
    with pytest.raises(DataError, match=r"manifest.json is damaged \(shard 0 is listed twice\)"):
        FeatureStore.open(tmp_path / "a")
    for counts, expected in (
        ({"images": 4}, "4 images and 10"),
        ({"captions": 9}, "5 images and 9"),
        ({"images": 6}, "6 images"),
    ):
        path.write_text(json.dumps({**whole, "shards": [{**whole["shards"][0], **counts}]}))
        with pytest.raises(
            DataError, match=rf"disagrees with its manifest: expected {expected}.*found caption_image 10, "
        ):
            FeatureStore.open(tmp_path / "a")


def test_files_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        run_extract(open_source(make_folder(tmp_path / "in", 3)), tmp_path / "out")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o640}


def test_a_folder_of_parts_is_refused_with_advice(tmp_path):
    source = open_source(make_folder(tmp_path / "in", 7))
    run_extract(source, tmp_path / "out", shard=(1, 2))
    with pytest.raises(
        DataError, match=r"it holds 1 part of a store: name the parts \(.*part-1-of-2 ...\), or .*store merge"
    ):
        FeatureStore.open(tmp_path / "out")


def test_full_disk(tmp_path, monkeypatch):
    def full(tensors, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = open_source(make_folder(tmp_path / "in"))
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OutputError, match="the disk is full"):
        run_extract(source, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*shard*"))
    monkeypatch.undo()
    assert run_extract(source, tmp_path / "out").images == 23
    with pytest.raises(OutputError, match=r"0000.txt/x \(Not a directory\)"):
        run_extract(source, tmp_path / "in" / "0000.txt" / "x")


def test_a_model_that_overflows_is_said(tmp_path):
    source = open_source(make_folder(tmp_path / "in"))
    broken = replace(fake_encoders(), embed=lambda texts: fake_embed(texts) * float("inf"))
    with pytest.raises(DataError, match=r"float16 cannot hold \('captions'"):
        run_extract(source, tmp_path / "out", broken)


def test_notes_of_a_source_are_warnings(tmp_path):
    folder = make_folder(tmp_path / "in", 3)
    source = open_source(folder)
    source.notes = ["a tar ended early"]
    with pytest.warns(Talk2DinoWarning, match="^a tar ended early$"):
        run_extract(source, tmp_path / "out")
    source.notes = []
    with folder_lock(tmp_path / "out"), pytest.raises(OutputError, match="another run is writing to"):
        run_extract(source, tmp_path / "out")


def test_progress(tmp_path):
    calls = []
    source = open_source(make_folder(tmp_path / "in"))
    run_extract(source, tmp_path / "out", progress=lambda done, total, note="": calls.append((done, total)))
    assert (calls[0], calls[-1]) == ((0, 23), (23, 23))
    assert all(a[0] <= b[0] for a, b in itertools.pairwise(calls))
    (tmp_path / "out" / "shard-00001.safetensors").unlink()
    calls.clear()
    with pytest.warns(Talk2DinoWarning, match="1 damaged shard"):
        run_extract(source, tmp_path / "out", progress=lambda done, total, note="": calls.append((done, total)))
    assert (calls[0], calls[-1]) == ((18, 23), (23, 23))


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (16, 16), (97, 31), (7, 5)])
def test_preprocess_as_the_published_code(size):
    """Short side to 16 (the long one cut to an integer), bicubic, centre crop with rounded offsets."""
    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    short = min(size)
    width, height = int(16 * size[0] / short), int(16 * size[1] / short)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - 16) / 2), round((height - 16) / 2)
    expected = np.asarray(resized.crop((left, top, left + 16, top + 16)))
    assert np.array_equal(preprocess(image, 16).permute(1, 2, 0).numpy(), expected)
    squashed = np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC))
    assert np.array_equal(preprocess(image, 16, "squash").permute(1, 2, 0).numpy(), squashed)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"features": ("heads", "cats")}, "option features: expected one or more of heads, average, cls, patch_mean"),
        ({"features": ()}, "option features: expected one or more of heads"),
        ({"crop": "left"}, "option crop: Input should be 'center' or 'squash'"),
        ({"shard": (0, 3)}, r"option shard: expected \(i, n\) with 1 <= i <= n"),
        ({"shard": (4, 3)}, "option shard: "),
        ({"batch_size": 0}, "option batch_size: .* greater than or equal to 1"),
        ({"dtype": "int8"}, "option dtype: unknown dtype 'int8'; accepted: auto, float32"),
        ({"device": "gpu"}, "option device: unknown device 'gpu'; accepted: auto, cpu"),
        ({"sise": 3}, "unknown option 'sise'; did you mean size"),
    ],
)
def test_options_are_checked(values, message):
    with pytest.raises(InputError, match=message):
        build_options(ExtractOptions, {"out": "x", **values})


def test_a_source_is_needed_and_its_folder_is_left_alone(tmp_path):
    with pytest.raises(InputError, match="name at least one source of images and captions"):
        extract(ExtractOptions(out=tmp_path / "out"), encoders=fake_encoders())
    folder = make_folder(tmp_path / "in", 3)
    with pytest.raises(DataError, match="is the folder of the source: choose another output folder"):
        extract(ExtractOptions(out=folder, sources=(folder,)), encoders=fake_encoders())


def test_sources_follow_one_another_up_to_the_limit(tmp_path):
    folders = tuple(make_folder(tmp_path / name, count) for name, count in (("a", 3), ("b", 7)))
    options = ExtractOptions(out=tmp_path / "out", sources=folders, limit=5)
    assert extract(options, encoders=fake_encoders()).images == 5
    lines = (tmp_path / "out" / "shard-00000.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["0000.png", "0001.png", "0002.png", "0000.png", "0001.png"]


def test_a_shard_that_is_missing_from_the_manifest_is_made_again(tmp_path, monkeypatch):
    """A run that ends between writing a shard and adding it to the manifest makes the same shard again."""
    source = open_source(make_folder(tmp_path / "in"))
    run_extract(source, tmp_path / "whole")
    real = StoreWriter.note_skipped

    def stop(self, skipped):
        if len(self.done) == 2:
            raise RuntimeError("killed")
        real(self, skipped)

    monkeypatch.setattr(StoreWriter, "note_skipped", stop)
    with pytest.raises(RuntimeError, match="killed"):
        run_extract(source, tmp_path / "out")
    monkeypatch.undo()
    assert (tmp_path / "out" / "shard-00002.safetensors").exists()
    assert len(Manifest.read(tmp_path / "out").shards) == 2
    run_extract(source, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_skipped_records_stay_in_the_order_of_the_source(tmp_path):
    """An earlier shard that is made again adds its records at the end of skipped.jsonl; finishing sorts them."""
    folder = make_folder(tmp_path / "in")
    for n in (2, 3, 8, 21):
        (folder / f"{n:04d}.png").write_bytes(b"bad")
    run_extract(open_source(folder), tmp_path / "out")
    whole = contents(tmp_path / "out")
    numbers = [json.loads(line)["record"] for line in whole["skipped.jsonl"].splitlines()]
    assert numbers == [2, 3, 8, 21]
    (tmp_path / "out" / "shard-00000.safetensors").unlink()
    with pytest.warns(Talk2DinoWarning, match="1 damaged shard"):
        run_extract(open_source(folder), tmp_path / "out")
    assert contents(tmp_path / "out") == whole


def test_a_record_is_listed_once(tmp_path):
    """A run that stopped in the middle of a shard has already listed some of its records."""
    manifest = Manifest({}, {}, ["heads"], M, D, 7, records_per_shard=5)
    writer = StoreWriter(tmp_path, manifest)
    bad = [(n, Skipped(f"{n}.png", "bad")) for n in (6, 7)]
    writer.note_skipped(bad)
    writer.write(ShardContents(1, skipped=bad))
    writer.note_skipped([(12, Skipped("12.png", "of a shard that was never finished"))])
    writer.write(ShardContents(0, skipped=[(1, Skipped("1.png", "bad"))]))
    writer.finish()
    lines = (tmp_path / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["record"] for line in lines] == [1, 6, 7]


def test_a_source_without_a_usable_record_is_refused(tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "metadata.jsonl").write_text("")
    with pytest.raises(DataError, match=r"the source holds no records: .*'folder': 'none'"):
        run_extract(open_source(tmp_path / "none"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    folder = make_folder(tmp_path / "in", 3)
    for n in range(3):
        (folder / f"{n:04d}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 3 records can be used; see .*skipped.jsonl"):
        run_extract(open_source(folder), tmp_path / "out")
    assert not Manifest.read(tmp_path / "out").complete


def test_a_size_that_the_model_cannot_take_is_refused_first(tmp_path):
    encoders = replace(fake_encoders(), patch_size=14)
    source = open_source(make_folder(tmp_path / "in", 3))
    for size, near in ((3, 14), (450, 448)):
        with pytest.raises(InputError, match=rf"multiple of the patch size 14; got {size}, try {near}"):
            run_extract(source, tmp_path / "out", encoders, size=size)
    assert not (tmp_path / "out").exists()


def test_lists_beside_the_shards_are_mended_too(tmp_path):
    folder = make_folder(tmp_path / "in")
    (folder / "0011.png").write_bytes(b"bad")
    run_extract(open_source(folder), tmp_path / "out")
    whole = contents(tmp_path / "out")
    (tmp_path / "out" / "skipped.jsonl").write_text("no JSON\n[]\n")
    (tmp_path / "out" / "shard-00001.jsonl").unlink()
    (tmp_path / "out" / "shard-00003.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"damaged shards: .*shard-00001.jsonl is missing; .*shard-00003.jsonl has 1 "):
        merge_stores([tmp_path / "out"], tmp_path / "merged")
    with pytest.warns(
        Talk2DinoWarning, match="making 3 damaged shards again: .*skipped.jsonl has lost records of shard 2"
    ):
        run_extract(open_source(folder), tmp_path / "out")
    assert contents(tmp_path / "out") == whole


def test_the_system_says_why_a_shard_cannot_be_written(tmp_path):
    """A limit of the operating system on the size of files, met by the real writer in the middle of a shard."""
    folder = make_folder(tmp_path / "in", 7, captions=30)
    call = [
        sys.executable,
        str(Path(__file__).parents[1] / "helpers" / "run_extract.py"),
        str(folder),
        str(tmp_path / "out"),
        "0",
    ]
    limited = (
        f"import os, resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1500, -1)); os.execv({call[0]!r}, {call})"
    )
    done = subprocess.run([call[0], "-c", limited], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "shard-00000.safetensors: the file would be larger than is allowed here; choose another folder" in last
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]


def test_what_a_kill_left_half_written_is_cleared_away(tmp_path):
    source = open_source(make_folder(tmp_path / "in", 7))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".shard-00000.safetensors.0123abcd.tmp.safetensors").write_bytes(b"half")
    (tmp_path / "out" / ".notes.tmp").write_text("somebody's")
    run_extract(source, tmp_path / "out")
    assert [name for name in contents(tmp_path / "out") if name.startswith(".")] == [".notes.tmp"]


def test_a_manifest_that_was_tampered_with(tmp_path):
    run_extract(open_source(make_folder(tmp_path / "in", 7)), tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    whole = json.loads(path.read_text())
    for name, value in (("number", "1"), ("file", "../shard-00000.safetensors"), ("bytes", None)):
        path.write_text(json.dumps({**whole, "shards": [{**whole["shards"][0], name: value}]}))
        with pytest.raises(DataError, match=r"manifest.json is damaged \(shard .*remove the folder and extract again"):
            FeatureStore.open(tmp_path / "out")


def test_differences_of_long_sources_are_short():
    files = [f"{n:05d}.tar" for n in range(1000)]
    one, other = (Manifest({}, {}, ["heads"], M, D, 7, {"kind": "tar", "files": files[:n]}) for n in (999, 1000))
    [line] = one.differences(other, same_source=True)
    assert line.startswith('source.files: ["00000.tar"')
    assert len(line) < 400


def test_stores_are_compared_in_what_they_say():
    """Old stores do not record checksums in half precision; converted ones may lack head embeddings."""

    def manifest(heads=M, **model):
        return Manifest({"name": "a", **model}, {}, ["heads"], heads, D, 7)

    one, other = ({"vision": {"float16": digits}} for digits in ("12", "34"))
    assert manifest().differences(manifest(weights=one)) == []
    assert manifest(0).differences(manifest()) == []
    assert manifest(2).differences(manifest()) == ["num_heads: 2 in the first, 3 in the second"]
    [line] = manifest(weights=one).differences(manifest(weights=other), sides=("here", "there"))
    assert line == 'model.weights.vision.float16: "12" here, "34" there'
