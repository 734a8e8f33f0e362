import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from talk2dino.errors import DataError, InputError, MissingExtraError
from talk2dino.methods import prototypes as module
from talk2dino.methods.prototypes import Prototype, PrototypeStore, PrototypeWriter

META = {"model": "tiny", "text_dim": 7, "vision_dim": 5}


def unit(rng, count, width):
    rows = rng.normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def fill(folder, rng, items=23, each=3, shard_size=13, index="auto"):
    writer = PrototypeWriter(folder, META, shard_size=shard_size)
    keys, features = unit(rng, items * each, 7), rng.normal(size=(items * each, 5)).astype(np.float32)
    for item in range(items):
        rows = range(item * each, (item + 1) * each)
        writer.add(f"item {item}", [Prototype(f"word {i}", keys[i], features[i]) for i in rows])
    return keys, features, writer.finish(index)


@pytest.mark.parametrize("index", ["exact", "hnsw"])
def test_search_finds_the_nearest_keys(tmp_path, rng, index):
    if index == "hnsw":
        pytest.importorskip("faiss")
    keys, features, count = fill(tmp_path, rng, index=index)
    store = PrototypeStore(tmp_path, index=index)
    assert (count, len(store), store.kind) == (69, 69, index)
    assert len(list(tmp_path.glob("shard-*.npz"))) == 5  # 15 rows a shard: an item is never split
    queries = unit(rng, 3, 7)
    similarities, indices = store.search(queries, 11)
    expected = np.argsort(-(queries @ keys.T), axis=1)[:, :11]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(similarities, np.take_along_axis(queries @ keys.T, expected, 1), atol=1e-6)
    np.testing.assert_allclose(
        store.class_prototypes(queries, 11), [features[row].mean(0) for row in expected], atol=1e-6
    )
    assert store.search(queries, 1000)[1].shape == (3, 69)
    assert store.words[expected[0, 0]] == f"word {expected[0, 0]}"


def test_exact_search_over_several_blocks(tmp_path, rng, monkeypatch):
    keys, _, _ = fill(tmp_path, rng, index="exact")
    store = PrototypeStore(tmp_path, index="exact")
    blocks = store._blocks
    monkeypatch.setattr(store, "_blocks", lambda: blocks(size=11))
    queries = unit(rng, 2, 7)
    np.testing.assert_array_equal(store.search(queries, 9)[1], np.argsort(-(queries @ keys.T), axis=1)[:, :9])


def test_hnsw_and_exact_agree_on_many_keys(tmp_path, rng):
    pytest.importorskip("faiss")
    fill(tmp_path, rng, items=1000, each=3, shard_size=512)
    queries = unit(rng, 5, 7)
    near, exact = (PrototypeStore(tmp_path, index=kind).search(queries, 350)[1] for kind in ("hnsw", "exact"))
    assert np.mean([len(set(a) & set(b)) / 350 for a, b in zip(near, exact, strict=True)]) > 0.99


def test_without_faiss(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(module, "has_faiss", lambda: False)
    fill(tmp_path, rng)
    assert not (tmp_path / "index.faiss").exists()
    assert PrototypeStore(tmp_path).kind == "exact"
    with pytest.raises(MissingExtraError, match=r"talk2dino\[freeda\]"):
        PrototypeStore(tmp_path, index="hnsw")
    with pytest.raises(MissingExtraError, match=r"faiss-cpu.*talk2dino\[freeda\]"):
        PrototypeWriter(tmp_path, META).finish("hnsw")


def test_building_goes_on_where_it_stopped(tmp_path, rng):
    first = PrototypeWriter(tmp_path, META, shard_size=2)
    key = unit(rng, 1, 7)[0]
    for item in "ab":
        first.add(item, [Prototype("w", key, np.ones(5))] * 2)
    first.add("c", [Prototype("w", key, np.ones(5))])  # not written yet: lost with the process
    again = PrototypeWriter(tmp_path, META, shard_size=2)
    assert again.done == {"a", "b"}
    with pytest.raises(DataError, match=r"the build was interrupted: run it again"):
        PrototypeStore(tmp_path)
    again.add("c", [Prototype("w", key, np.full(5, 2.0))])
    again.add("nothing to see", [])
    assert again.finish("exact") == 5
    assert PrototypeWriter(tmp_path, META).done == {"a", "b", "c", "nothing to see"}


def test_features_that_are_not_finite_are_left_out(tmp_path, rng):
    writer = PrototypeWriter(tmp_path, META)
    key = unit(rng, 1, 7)[0]
    writer.add("a", [Prototype("w", key, np.array([1, 2, np.nan, 4, 5.0])), Prototype("v", key, np.ones(5))])
    assert writer.finish("exact") == 1
    assert PrototypeStore(tmp_path).words == ["v"]


def test_refusals(tmp_path, rng):
    fill(tmp_path / "a", rng, items=2, index="exact")
    with pytest.raises(DataError, match=r"made otherwise \(model: .* there, 'another' now\)"):
        PrototypeWriter(tmp_path / "a", META | {"model": "another"})
    with pytest.raises(DataError, match=r"is not a prototype folder: meta\.json.*talk2dino freeda build"):
        PrototypeStore(tmp_path)
    with pytest.raises(DataError, match="no HNSW index"):
        PrototypeStore(tmp_path / "a", index="hnsw")
    with pytest.raises(InputError, match="auto, hnsw, exact"):
        PrototypeStore(tmp_path / "a", index="flat")
    with pytest.raises(InputError, match=r"\(Q, 7\)"):
        PrototypeStore(tmp_path / "a").search(np.ones((2, 8)), 1)
    with pytest.raises(DataError, match="holds no prototypes"):
        PrototypeWriter(tmp_path / "empty", META).finish()
    shard = tmp_path / "a" / "shard-00000.npz"
    shard.write_bytes(shard.read_bytes()[:40])
    with pytest.raises(DataError, match=r"shard-00000\.npz is damaged"):
        PrototypeWriter(tmp_path / "a", META)
    words = tmp_path / "a" / "words.json"
    words.write_text(json.dumps(["one"]))
    with pytest.raises(DataError, match="differ in length"):
        PrototypeStore(tmp_path / "a")


@pytest.mark.long
def test_killed_build_and_resumed_build_equal_one_build(tmp_path):
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from talk2dino.methods.prototype_build import build_prototypes, world_source
        from talk2dino.segmenter import Segmenter
        def slow(source):
            for name, load in source:
                time.sleep(float(sys.argv[2]))
                yield name, load
        segmenter = Segmenter.from_pretrained("micro", device="cpu", dtype="float32")
        source = slow(world_source(range(500_000, 500_020), height=48))
        build_prototypes(segmenter.towers, source, sys.argv[1], what="w", index="exact", shard_size=7)
    """)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([sys.executable, "-c", script, str(whole), "0"], check=True)
    process = subprocess.Popen([sys.executable, "-c", script, str(killed), "0.2"])
    while len(list(killed.glob("shard-*.npz"))) < 2:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "keys.npy").exists()
    subprocess.run([sys.executable, "-c", script, str(killed), "0"], check=True)
    for name in ("keys.npy", "prototypes.npy"):
        np.testing.assert_allclose(np.load(killed / name), np.load(whole / name), atol=1e-5)
    assert (killed / "words.json").read_text() == (whole / "words.json").read_text()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("keys.npy", b"x"),
        ("keys.npy", 100),
        ("prototypes.npy", b""),
        ("words.json", b"["),
        ("words.json", b"{}"),
        ("meta.json", b"{"),
        ("index.faiss", b"xx"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, rng, name, content):
    if name == "index.faiss":
        pytest.importorskip("faiss")
    fill(tmp_path, rng, items=4, index="hnsw" if name == "index.faiss" else "exact")
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else path.read_bytes()[:content])
    with pytest.raises(DataError, match=rf"{name} is damaged.*build"):
        PrototypeStore(tmp_path)


def test_a_folder_without_its_description_is_not_gone_on_with(tmp_path, rng):
    fill(tmp_path, rng, items=2, index="exact")
    (tmp_path / "meta.json").unlink()
    with pytest.raises(DataError, match=r"shards of prototypes without their meta\.json"):
        PrototypeWriter(tmp_path, META)
