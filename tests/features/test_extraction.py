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
from fakes import SIZE, D, M, fake_embed, fake_encoders, fake_vision, make_folder
from PIL import Image

from talk2dino.captions.layouts import open_source
from talk2dino.errors import DataError, InputError, OutputError
from talk2dino.features import writer as shards
from talk2dino.features.extraction import ExtractOptions, extract, preprocess
from talk2dino.features.manifest import Manifest, differences
from talk2dino.features.store import FeatureStore
from talk2dino.features.writer import merge_stores
from talk2dino.io.lock import folder_lock
from talk2dino.models.preprocess import normalise
from talk2dino.stages.heads import pooled_features

OPTIONS = ExtractOptions(size=SIZE, batch_size=3, records_per_shard=5, max_skipped=1.0)
EVERYTHING = ("heads", "average", "cls", "patch_mean")


def contents(folder):
    """All files of a store by name, as bytes."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_features_are_the_models(tmp_path):
    source = open_source(make_folder(tmp_path / "in"))
    manifest = extract(source, fake_encoders(), tmp_path / "out", replace(OPTIONS, features=EVERYTHING))
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
    manifest = extract(open_source(folder), fake_encoders(), tmp_path / "out", OPTIONS)
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
        extract(open_source(folder), fake_encoders(), tmp_path / "out", replace(OPTIONS, max_skipped=0.05))
    assert not Manifest.read(tmp_path / "out").complete
    assert len((tmp_path / "out" / "skipped.jsonl").read_text().splitlines()) == 4
    manifest = extract(open_source(folder), fake_encoders(), tmp_path / "out", replace(OPTIONS, max_skipped=0.2))
    assert manifest.complete
    assert len((tmp_path / "out" / "skipped.jsonl").read_text().splitlines()) == 4


def test_it_stops_early_once_enough_was_seen(tmp_path):
    folder = make_folder(tmp_path / "in", 160, 1)
    for n in range(90, 130):
        (folder / f"{n:04d}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"of the first 10\d records"):
        extract(open_source(folder), fake_encoders(), tmp_path / "out", replace(OPTIONS, max_skipped=0.05))


def test_killed_run_goes_on_to_the_identical_store(tmp_path):
    folder = make_folder(tmp_path / "in", 61)
    for n in (3, 17, 40):
        (folder / f"{n:04d}.png").write_bytes(b"bad")  # too short for any decoder
    script = str(Path(__file__).with_name("run_extract.py"))
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


def test_parts_merge_to_the_whole(tmp_path):
    source = open_source(make_folder(tmp_path / "in", 31))
    extract(source, fake_encoders(), tmp_path / "whole", OPTIONS)
    parts = [tmp_path / f"part{n}" for n in range(3)]
    for n, part in enumerate(parts):
        extract(source, fake_encoders(), part, replace(OPTIONS, part=(n, 3)))
    assert sum(Manifest.read(part).images for part in parts) == 31
    together = FeatureStore.open(parts)
    assert together.num_images == 31
    merge_stores(parts, tmp_path / "merged")
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")
    with pytest.raises(DataError, match="3 parts make the whole; missing: 1/3"):
        merge_stores([parts[0], parts[2]], tmp_path / "two")
    extract(source, fake_encoders("other"), tmp_path / "other", replace(OPTIONS, part=(1, 3)))
    with pytest.raises(DataError, match=r"not of one extraction: model.name: fake and other"):
        merge_stores([parts[0], tmp_path / "other", parts[2]], tmp_path / "bad")


def test_damage_is_named_and_mended(tmp_path):
    source = open_source(make_folder(tmp_path / "in"))
    extract(source, fake_encoders(), tmp_path / "out", OPTIONS)
    whole = contents(tmp_path / "out")
    shard = tmp_path / "out" / "shard-00002.safetensors"
    damaged = bytearray(shard.read_bytes())
    damaged[-5] ^= 1
    shard.write_bytes(damaged)
    (tmp_path / "out" / "shard-00001.safetensors").unlink()
    with pytest.raises(DataError, match=r"1 of 5 shards .*shard-00001.safetensors is missing; running"):
        FeatureStore.open(tmp_path / "out")
    with pytest.raises(DataError, match=r"2 of 5 shards .*shard-00002.safetensors is corrupted: its checksum"):
        FeatureStore.open(tmp_path / "out", verify=True)
    told = []
    extract(source, fake_encoders(), tmp_path / "out", OPTIONS, tell=told.append)
    assert contents(tmp_path / "out") == whole
    [note] = told
    assert note.startswith("making 2 damaged shards again: ")
    assert "shard-00001.safetensors is missing; " in note


def test_stores_of_other_models_are_refused_by_name(tmp_path):
    source = open_source(make_folder(tmp_path / "in"))
    extract(source, fake_encoders(), tmp_path / "a", OPTIONS)
    with pytest.raises(DataError, match=r"made in another way \(model.name: fake and vitb\)"):
        extract(source, fake_encoders("vitb"), tmp_path / "a", OPTIONS)
    extract(source, fake_encoders("vitb"), tmp_path / "b", OPTIONS)
    with pytest.raises(DataError, match=r"cannot be used as one store: model.name: fake and vitb"):
        FeatureStore.open([tmp_path / "a", tmp_path / "b"])
    extract(source, fake_encoders(), tmp_path / "c", replace(OPTIONS, size=24))
    with pytest.raises(DataError, match=r"preprocessing.size: 16 and 24"):
        FeatureStore.open([tmp_path / "a", tmp_path / "c"])
    more = open_source(make_folder(tmp_path / "more", 7, size=(31, 50)))
    extract(more, fake_encoders(), tmp_path / "d", OPTIONS)
    assert FeatureStore.open([tmp_path / "a", tmp_path / "d"]).num_images == 30


def test_a_changed_source_is_refused(tmp_path):
    folder = make_folder(tmp_path / "in")
    extract(open_source(folder), fake_encoders(), tmp_path / "out", OPTIONS)
    extract(open_source(folder), fake_encoders(), tmp_path / "part0", replace(OPTIONS, part=(0, 2)))
    (tmp_path / "out" / "shard-00001.safetensors").unlink()
    (folder / "0007.txt").write_text("another caption\n")
    with pytest.raises(DataError, match=r"source.content: \w+ and \w+, that is, its captions or pictures have changed"):
        extract(open_source(folder), fake_encoders(), tmp_path / "out", OPTIONS)
    extract(open_source(folder), fake_encoders(), tmp_path / "part1", replace(OPTIONS, part=(1, 2)))
    with pytest.raises(DataError, match=r"are not of one extraction: source.content: "):
        merge_stores([tmp_path / "part0", tmp_path / "part1"], tmp_path / "whole")


def test_stores_need_only_share_the_feature_that_is_read(tmp_path):
    folder = make_folder(tmp_path / "in", 7)
    every = replace(OPTIONS, features=("cls", "heads"))
    extract(open_source(folder), fake_encoders(), tmp_path / "a", every)
    written = contents(tmp_path / "a")
    (tmp_path / "a" / "shard-00000.safetensors").unlink()
    extract(open_source(folder), fake_encoders(), tmp_path / "a", replace(OPTIONS, features=("heads", "cls", "heads")))
    assert contents(tmp_path / "a") == written
    more = open_source(make_folder(tmp_path / "more", 5, size=(31, 50)))
    extract(more, fake_encoders(), tmp_path / "b", replace(OPTIONS, features=("heads",)))
    both = FeatureStore.open([tmp_path / "a", tmp_path / "b"])
    assert both.gather("heads", torch.arange(12)).shape == (12, M, D)
    with pytest.raises(DataError, match="these stores share no feature 'cls', only: heads"):
        both.shape("cls")
    with pytest.raises(DataError, match=r"made in another way \(features: \['cls', 'heads'\] and \['heads'\]\)"):
        extract(open_source(folder), fake_encoders(), tmp_path / "a", OPTIONS)


def test_pictures_that_would_count_double_are_refused(tmp_path):
    source = open_source(make_folder(tmp_path / "in", 7))
    extract(source, fake_encoders(), tmp_path / "a", OPTIONS)
    with pytest.raises(DataError, match=r"a is given twice: its pictures would count double"):
        FeatureStore.open([tmp_path / "a", tmp_path / "in" / ".." / "a"])
    merge_stores([tmp_path / "a"], tmp_path / "b")
    with pytest.raises(
        DataError, match=r"b/shard-00000.safetensors holds the same pictures as .*a/shard-00000.safeten"
    ):
        FeatureStore.open([tmp_path / "a", tmp_path / "b"])
    path = tmp_path / "a" / "manifest.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "shards": [*whole["shards"], whole["shards"][0]]}))
    with pytest.raises(DataError, match=r"manifest.json is damaged \(shard 0 is listed twice\)"):
        FeatureStore.open(tmp_path / "a")
    for counts, told in (
        ({"images": 4}, "4 pictures, 10"),
        ({"captions": 9}, "5 pictures, 9"),
        ({"images": 6}, "6 pict"),
    ):
        path.write_text(json.dumps({**whole, "shards": [{**whole["shards"][0], **counts}]}))
        with pytest.raises(
            DataError, match=rf"does not hold what its manifest says \({told}.*found caption_image 10, "
        ):
            FeatureStore.open(tmp_path / "a")


def test_files_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        extract(open_source(make_folder(tmp_path / "in", 3)), fake_encoders(), tmp_path / "out", OPTIONS)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o640}


def test_parts_are_no_store_but_it_is_told_what_to_do(tmp_path):
    source = open_source(make_folder(tmp_path / "in", 7))
    extract(source, fake_encoders(), tmp_path / "out" / "part-000-of-002", replace(OPTIONS, part=(0, 2)))
    with pytest.raises(
        DataError, match=r"it holds 1 parts of one: give these \(.*part-000-of-002 ...\), or .*store merge"
    ):
        FeatureStore.open(tmp_path / "out")


def test_full_disk(tmp_path, monkeypatch):
    def full(tensors, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = open_source(make_folder(tmp_path / "in"))
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OutputError, match="the disk is full"):
        extract(source, fake_encoders(), tmp_path / "out", OPTIONS)
    assert not list((tmp_path / "out").glob("*shard*"))
    monkeypatch.undo()
    assert extract(source, fake_encoders(), tmp_path / "out", OPTIONS).images == 23
    with pytest.raises(OutputError, match="cannot make the folder"):
        extract(source, fake_encoders(), tmp_path / "in" / "0000.txt" / "x", OPTIONS)


def test_a_model_that_overflows_is_said(tmp_path):
    source = open_source(make_folder(tmp_path / "in"))
    broken = replace(fake_encoders(), embed=lambda texts: fake_embed(texts) * float("inf"))
    with pytest.raises(DataError, match=r"float16 cannot hold \('captions'"):
        extract(source, broken, tmp_path / "out", OPTIONS)


def test_what_should_be_known_of_a_source_is_told(tmp_path):
    folder = make_folder(tmp_path / "in", 3)
    source = open_source(folder)
    source.notes = ["a tar ended early"]
    told = []
    extract(source, fake_encoders(), tmp_path / "out", OPTIONS, tell=told.append)
    assert told == ["a tar ended early"]
    with folder_lock(tmp_path / "out"), pytest.raises(OutputError, match="another run is writing to"):
        extract(source, fake_encoders(), tmp_path / "out", OPTIONS)


def test_progress(tmp_path):
    told = []
    extract(open_source(make_folder(tmp_path / "in")), fake_encoders(), tmp_path / "out", OPTIONS, watch=told.append)
    assert told[-1]["done"] == told[-1]["total"] == 23
    assert all(a["done"] <= b["done"] for a, b in itertools.pairwise(told))
    assert told[3]["remaining"] > 0
    (tmp_path / "out" / "shard-00001.safetensors").unlink()
    extract(open_source(tmp_path / "in"), fake_encoders(), tmp_path / "out", OPTIONS, watch=told.append)
    assert (told[-1]["before"], told[-1]["done"]) == (18, 23)


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


def test_options_are_checked():
    for values, message in (
        ({"features": ("heads", "cats")}, "unknown features cats; any of: heads"),
        ({"crop": "left"}, "crop is 'center' or 'squash'"),
        ({"part": (3, 3)}, "counts from 0/n to n-1/n; got 3/3"),
        ({"batch_size": 0}, "at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            ExtractOptions(**values)


def test_a_shard_that_cannot_be_entered_is_made_again(tmp_path, monkeypatch):
    """A run that ends between a shard and its line in the manifest makes that shard again, identically."""
    source = open_source(make_folder(tmp_path / "in"))
    extract(source, fake_encoders(), tmp_path / "whole", OPTIONS)
    real = shards.StoreWriter.note_skipped

    def stop(self, skipped):
        if len(self.done) == 2:
            raise RuntimeError("killed")
        real(self, skipped)

    monkeypatch.setattr(shards.StoreWriter, "note_skipped", stop)
    with pytest.raises(RuntimeError, match="killed"):
        extract(source, fake_encoders(), tmp_path / "out", OPTIONS)
    monkeypatch.undo()
    assert (tmp_path / "out" / "shard-00002.safetensors").exists()
    assert len(Manifest.read(tmp_path / "out").shards) == 2
    extract(source, fake_encoders(), tmp_path / "out", OPTIONS)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_source_without_a_usable_record_is_refused(tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "metadata.jsonl").write_text("")
    with pytest.raises(DataError, match=r"the source holds not one record: .*'folder': 'none'"):
        extract(open_source(tmp_path / "none"), fake_encoders(), tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()
    folder = make_folder(tmp_path / "in", 3)
    for n in range(3):
        (folder / f"{n:04d}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"not one of 3 records can be used; .*skipped.jsonl says why"):
        extract(open_source(folder), fake_encoders(), tmp_path / "out", OPTIONS)
    assert not Manifest.read(tmp_path / "out").complete


def test_a_size_that_the_model_cannot_take_is_refused_first(tmp_path):
    encoders = fake_encoders()
    encoders = replace(encoders, vision=type("Vision", (), {"patch_size": 14, "__call__": fake_vision})())
    source = open_source(make_folder(tmp_path / "in", 3))
    for size, near in ((3, 14), (450, 448)):
        with pytest.raises(InputError, match=rf"multiple of the patch size 14; got {size}, near it is {near}"):
            extract(source, encoders, tmp_path / "out", replace(OPTIONS, size=size))
    assert not (tmp_path / "out").exists()


def test_lists_beside_the_shards_are_mended_too(tmp_path):
    folder = make_folder(tmp_path / "in")
    (folder / "0011.png").write_bytes(b"bad")
    extract(open_source(folder), fake_encoders(), tmp_path / "out", OPTIONS)
    whole = contents(tmp_path / "out")
    (tmp_path / "out" / "skipped.jsonl").write_text("no JSON\n[]\n")
    (tmp_path / "out" / "shard-00001.jsonl").unlink()
    (tmp_path / "out" / "shard-00003.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"damaged shards: .*shard-00001.jsonl is missing; .*shard-00003.jsonl has 1 "):
        merge_stores([tmp_path / "out"], tmp_path / "merged")
    extract(open_source(folder), fake_encoders(), tmp_path / "out", OPTIONS)
    assert contents(tmp_path / "out") == whole


def test_the_system_says_why_a_shard_cannot_be_written(tmp_path):
    """A limit of the operating system on the size of files, met by the real writer in the middle of a shard."""
    folder = make_folder(tmp_path / "in", 7, captions=30)
    call = [sys.executable, str(Path(__file__).with_name("run_extract.py")), str(folder), str(tmp_path / "out"), "0"]
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
    extract(source, fake_encoders(), tmp_path / "out", OPTIONS)
    assert [name for name in contents(tmp_path / "out") if name.startswith(".")] == [".notes.tmp"]


def test_a_manifest_that_was_tampered_with(tmp_path):
    extract(open_source(make_folder(tmp_path / "in", 7)), fake_encoders(), tmp_path / "out", OPTIONS)
    path = tmp_path / "out" / "manifest.json"
    whole = json.loads(path.read_text())
    for name, value in (("number", "1"), ("file", "../shard-00000.safetensors"), ("bytes", None)):
        path.write_text(json.dumps({**whole, "shards": [{**whole["shards"][0], name: value}]}))
        with pytest.raises(DataError, match=r"manifest.json is damaged \(shard .*remove the folder and extract again"):
            FeatureStore.open(tmp_path / "out")


def test_differences_of_long_sources_are_short():
    files = [f"{n:05d}.tar" for n in range(1000)]
    before, now = (Manifest({}, {}, ["heads"], M, D, 7, {"kind": "tar", "files": files[:n]}) for n in (999, 1000))
    [line] = differences("source", before.source, now.source)
    assert line.startswith("source.files: ['00000.tar'")
    assert len(line) < 400


def test_stores_are_compared_in_what_they_say():
    """Older stores say nothing of their weights in half precision, converted ones may have no head embeddings."""

    def manifest(heads=M, **model):
        return Manifest({"name": "a", **model}, {}, ["heads"], heads, D, 7)

    one, other = ({"vision": {"float16": digits}} for digits in ("12", "34"))
    assert manifest().differences(manifest(weights=one)) == []
    assert manifest(0).differences(manifest()) == []
    assert manifest(2).differences(manifest()) == ["num_heads: 2 and 3"]
    told = manifest(weights=one).differences(manifest(weights=other))
    assert told == ["model.weights.vision.float16: 12 and 34"]
