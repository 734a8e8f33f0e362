"""Text embeddings on disk: found again by another process's encoder, never in the way."""

import contextlib
import sqlite3

import pytest
import torch

from talk2dino.io.cache import cache_folder
from talk2dino.models.loading import load_parts
from talk2dino.models.text_cache import TextCache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TALK2DINO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def forbid_the_model(encoder, monkeypatch):
    def called(*args, **kwargs):
        raise AssertionError("the text model ran")

    monkeypatch.setattr(encoder.model, "forward", called)


def test_a_second_run_encodes_nothing(folder, monkeypatch):
    first = load_parts("micro").text.embed_classes([["sky"], ["ball", "球"]])
    again = load_parts("micro").text
    forbid_the_model(again, monkeypatch)
    assert torch.equal(again.embed_classes([["sky"], ["ball", "球"]]), first)
    with pytest.raises(AssertionError, match="ran"):
        again.embed_classes([["sky"], ["grass"]])
    with pytest.raises(AssertionError, match="ran"):
        again.embed_classes([["sky"]], ["another template of {}"])
    assert b"sky" not in b"".join(path.read_bytes() for path in (folder / "text").iterdir())


def test_other_weights_and_other_vocabularies_keep_apart(folder):
    one, other = load_parts("micro").text, load_parts("micro").text
    first = one.embed(["sky"])
    with torch.no_grad():
        other.model.proj.weight.mul_(2)
    assert torch.allclose(other.embed(["sky"]), 2 * first)
    assert len(list((folder / "text").iterdir())) == 2


def test_captions_are_not_kept(folder):
    load_parts("micro").text.embed(["a red ball"], truncate=True)
    assert not folder.exists()


def test_off_means_no_file(monkeypatch, tmp_path):
    monkeypatch.setenv("TALK2DINO_CACHE", "off")
    monkeypatch.setenv("HOME", str(tmp_path))
    load_parts("micro").text.embed(["sky"])
    assert cache_folder() is None
    assert not list(tmp_path.iterdir())
    monkeypatch.delenv("TALK2DINO_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "talk2dino"


@pytest.mark.parametrize("damage", ["garbage", "cut", "folder", "other dim"])
def test_a_damaged_cache_is_no_cache(tmp_path, damage):
    path, row = tmp_path / "t.sqlite", torch.arange(4.0)
    TextCache(path, 4).put({f"text {i}": row + i for i in range(900)})
    assert len(TextCache(path, 4).get([f"text {i}" for i in range(1200)])) == 900
    if damage == "garbage":
        path.write_bytes(b"not a database, but long enough to look like one" * 100)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    cache = TextCache(path, 5 if damage == "other dim" else 4)
    assert cache.get(["text 1"]) == {}
    if damage != "folder":  # what was damaged is made anew
        fresh = torch.arange(float(cache.dim))
        TextCache(path, cache.dim).put({"text 1": fresh})
        assert torch.equal(TextCache(path, cache.dim).get(["text 1"])["text 1"], fresh)


@pytest.mark.parametrize("content", ["nothing", "no table", "another table"])
def test_an_empty_file_is_filled(tmp_path, content):
    path = tmp_path / "t.sqlite"
    path.touch()
    if content != "nothing":
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute("CREATE TABLE texts (a)" if content == "another table" else "CREATE TABLE other (a)")
    cache = TextCache(path, 3)
    assert cache.get(["sky"]) == {}
    cache.put({"sky": torch.arange(3.0)})
    assert torch.equal(TextCache(path, 3).get(["sky"])["sky"], torch.arange(3.0))


def test_numbers_that_are_not_what_was_written_are_not_served(tmp_path):
    path, rows = tmp_path / "t.sqlite", {f"text {i}": torch.randn(16) for i in range(4)}
    TextCache(path, 16).put(rows)
    content = bytearray(path.read_bytes())
    place = content.find(rows["text 2"].numpy().tobytes())
    assert place > 0
    content[place + 5] ^= 0x10
    path.write_bytes(content)
    cache = TextCache(path, 16)
    assert set(cache.get(list(rows))) == {"text 0", "text 1", "text 3"}
    cache.put({"text 2": rows["text 2"]})
    assert torch.equal(TextCache(path, 16).get(["text 2"])["text 2"], rows["text 2"])


def test_an_embedding_is_not_served_for_another_text(tmp_path):
    path = tmp_path / "t.sqlite"
    TextCache(path, 4).put({"a": torch.zeros(4), "b": torch.ones(4)})
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE texts SET embedding = (SELECT embedding FROM texts ORDER BY rowid LIMIT 1)")
    assert set(TextCache(path, 4).get(["a", "b"])) == {"a"}


def test_the_oldest_go_first(tmp_path):
    cache = TextCache(tmp_path / "t.sqlite", 1, largest=3)
    for i in range(5):
        cache.put({str(i): torch.tensor([float(i)])})
    assert sorted(cache.get([str(i) for i in range(5)])) == ["2", "3", "4"]


def test_a_locked_or_unwritable_file_stops_nothing(tmp_path, monkeypatch):
    def locked(*args, **kwargs):
        raise sqlite3.OperationalError("database is locked")

    cache = TextCache(tmp_path / "t.sqlite", 1)
    cache.put({"a": torch.zeros(1)})
    monkeypatch.setattr(sqlite3, "connect", locked)
    assert cache.get(["a"]) == {}
    assert not cache.usable
    cache.put({"b": torch.zeros(1)})
    assert (tmp_path / "t.sqlite").is_file()
