import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch.nn.functional as F

from talk2dino.errors import DataError, InputError, MissingExtraError
from talk2dino.methods import prototypes as module
from talk2dino.methods.prototypes import Prototype, PrototypeStore, PrototypeWriter, distinct_rows

META = {"model": "tiny", "size": 41}


def unit(rng, count, width):
    rows = rng.normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def fill(folder, rng, items=23, each=3, shard_size=13):
    """Prototypes (D 5) of ``items`` items with ``each`` words, all of them different (C 7)."""
    writer = PrototypeWriter(folder, META, shard_size=shard_size)
    keys, features = unit(rng, items * each, 7), rng.normal(size=(items * each, 5)).astype(np.float32)
    for item in range(items):
        rows = range(item * each, (item + 1) * each)
        writer.add(f"item {item}", [Prototype(f"word {i}", keys[i], features[i]) for i in rows])
    return keys, features, writer.finish()


def fill_words(folder, keys, which, features, shard_size=997):
    """One prototype per entry of ``which``, whose key is ``keys[which]``."""
    writer = PrototypeWriter(folder, META, shard_size=shard_size)
    for number, word in enumerate(which):
        writer.add(str(number), [Prototype(f"word {word}", keys[word], features[number])])
    writer.finish()
    return PrototypeStore(folder)


@pytest.mark.parametrize("index", ["exact", "hnsw"])
def test_search_finds_the_nearest_keys(tmp_path, rng, index):
    if index == "hnsw":
        pytest.importorskip("faiss")
    keys, features, count = fill(tmp_path, rng)
    store = PrototypeStore(tmp_path, index=index)
    assert (count, len(store), len(store.keys), store.index) == (69, 69, 69, index)
    assert len(list(tmp_path.glob("shard-*.npz"))) == 5  # 15 rows per shard: an item is never split
    queries = unit(rng, 3, 7)
    expected = np.argsort(-(queries @ keys.T), axis=1)[:, :11]
    assert store.search(queries, 11) == [[(key, 1) for key in row] for row in expected]
    np.testing.assert_allclose(
        store.class_prototypes(queries, 11), [features[row].mean(0) for row in expected], atol=1e-6
    )
    assert sum(number for _, number in store.search(queries, 1000)[0]) == 69
    assert store.words[expected[0, 0]] == f"word {expected[0, 0]}"


@pytest.mark.parametrize("index", ["exact", "hnsw"])
def test_thousands_of_equal_keys_give_the_right_word(tmp_path, micro, index):
    """HNSW over all 8,000 keys finds the right word for half to three quarters of the 350, since equal keys split its graph."""
    if index == "hnsw":
        pytest.importorskip("faiss")
    from talk2dino.world import CLASS_NAMES

    keys = F.normalize(micro.text.embed_classes([[word] for word in CLASS_NAMES]), dim=-1).numpy()
    which = np.random.default_rng(0).integers(0, len(keys), 8000)
    fill_words(tmp_path, keys, which, np.eye(len(keys))[which])  # the prototype is its word, one hot
    store = PrototypeStore(tmp_path, index=index)
    np.testing.assert_allclose(np.diag(store.class_prototypes(keys, 350)), 1)


def test_the_last_word_counts_by_what_is_missing(tmp_path):
    keys = np.eye(3, dtype=np.float32)
    which = np.array([0, 1, 1, 0, 1, 2, 1, 1])  # 2, 5 and 1 prototypes
    features = np.arange(8 * 5, dtype=np.float32).reshape(8, 5) ** 2
    store = fill_words(tmp_path / "a", keys, which, features)
    query = np.array([[0.9, 0.4, 0.1]], dtype=np.float32)
    assert store.search(query, 4) == [[(0, 2), (1, 2)]]
    means = [features[which == word].mean(0) for word in range(3)]
    expected = (2 * means[0] + 2 * means[1]) / 4
    np.testing.assert_allclose(store.class_prototypes(query, 4)[0], expected)
    order = np.random.default_rng(1).permutation(8)
    shuffled = fill_words(tmp_path / "b", keys, which[order], features[order], shard_size=3)
    np.testing.assert_allclose(shuffled.class_prototypes(query, 4)[0], expected, rtol=1e-6)


def test_a_resumed_build_keeps_one_key_per_word(tmp_path):
    """Another process may embed the same word with other rounding."""
    key = np.array([0.6, 0.8], np.float32)
    for item in "ab":
        writer = PrototypeWriter(tmp_path, META, shard_size=1)
        writer.add(item, [Prototype("ball", key, np.ones(5)), Prototype("fog", -key, np.ones(5))])
        key = key * np.float32(1 + 1e-6)
    writer.finish()
    assert PrototypeStore(tmp_path).keys.shape == (2, 2)


def test_distinct_rows_over_several_blocks(rng):
    rows = unit(rng, 4, 7)[[2, 0, 2, 1, 0, 2, 3]]
    distinct, which = distinct_rows(rows, block=3)
    assert distinct.shape == (4, 7)
    np.testing.assert_array_equal(distinct[which], rows)


def test_a_folder_of_version_0_1_0_loads(tmp_path, rng):
    """It has an index over all keys, which is not read any more."""
    keys, _, _ = fill(tmp_path, rng, items=2)
    (tmp_path / "index.faiss").write_bytes(b"an HNSW index")
    old = META | {"text_dim": 7, "vision_dim": 5, "vision_weights": "0" * 16, "text_weights": "1" * 16}
    (tmp_path / "meta.json").write_text(json.dumps(old))
    np.testing.assert_array_equal(PrototypeStore(tmp_path).keys, keys)


def test_without_faiss(tmp_path, rng, monkeypatch):
    fill(tmp_path, rng, items=2)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert PrototypeStore(tmp_path).index == "exact"
    with pytest.raises(MissingExtraError, match=r"faiss-cpu.*talk2dino\[freeda\]"):
        PrototypeStore(tmp_path, index="hnsw")


def test_an_interrupted_build_is_resumed(tmp_path, rng):
    first = PrototypeWriter(tmp_path, META, shard_size=2)
    key = unit(rng, 1, 7)[0]
    for item in "ab":
        first.add(item, [Prototype("w", key, np.ones(5))] * 2)
    first.add("c", [Prototype("w", key, np.ones(5))])  # not written yet: lost with the process
    again = PrototypeWriter(tmp_path, META, shard_size=2)
    assert again.done == {"a", "b"}
    with pytest.raises(DataError, match="run the interrupted build again"):
        PrototypeStore(tmp_path)
    again.add("c", [Prototype("w", key, np.full(5, 2.0))])
    again.add("nothing to see", [])
    assert again.finish() == 5
    assert PrototypeWriter(tmp_path, META).done == {"a", "b", "c", "nothing to see"}


def test_features_that_are_not_finite_are_left_out(tmp_path, rng):
    writer = PrototypeWriter(tmp_path, META)
    key = unit(rng, 1, 7)[0]
    writer.add("a", [Prototype("w", key, np.array([1, 2, np.nan, 4, 5.0])), Prototype("v", key, np.ones(5))])
    assert writer.finish() == 1
    assert PrototypeStore(tmp_path).words == ["v"]


def test_refusals(tmp_path, rng):
    fill(tmp_path / "a", rng, items=2)
    with pytest.raises(
        InputError, match=r'other settings \(model: "tiny" before, "another" now\): .*another output folder'
    ):
        PrototypeWriter(tmp_path / "a", META | {"model": "another"})
    with pytest.raises(DataError, match=r"is not a folder of prototypes \(meta\.json.*talk2dino freeda build"):
        PrototypeStore(tmp_path)
    with pytest.raises(InputError, match="exact, hnsw"):
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
    with pytest.raises(DataError, match=r"differ in length.*build the prototypes again"):
        PrototypeStore(tmp_path / "a")


@pytest.mark.long
def test_killed_build_and_resumed_build_equal_one_build(tmp_path):
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from dataclasses import replace
        from talk2dino.methods.prototype_build import build_prototypes, world_source
        from talk2dino.segmenter import Segmenter
        def slow(load):
            time.sleep(float(sys.argv[2]))
            return load()
        segmenter = Segmenter.from_pretrained("micro", device="cpu", dtype="float32")
        source = world_source(range(500_000, 500_020), height=48)
        items = {name: lambda load=load: slow(load) for name, load in source.items.items()}
        build_prototypes(segmenter.towers, replace(source, items=items, shard_size=7), sys.argv[1])
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
    ],
)
def test_a_damaged_file_is_named(tmp_path, rng, name, content):
    fill(tmp_path, rng, items=4)
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else path.read_bytes()[:content])
    with pytest.raises(DataError, match=rf"{name} is damaged.*build"):
        PrototypeStore(tmp_path)


def test_a_folder_without_its_settings_is_not_resumed(tmp_path, rng):
    fill(tmp_path, rng, items=2)
    (tmp_path / "meta.json").unlink()
    with pytest.raises(DataError, match=r"its meta\.json is missing"):
        PrototypeWriter(tmp_path, META)
