"""The journal that everything resumable keeps, and the comparison of settings."""

import json
import os
from pathlib import Path

import pytest

from talk2dino.errors import DataError, InputError, OutputError
from talk2dino.io.journal import Journal, read_journal, write_journal
from talk2dino.io.settings import check_same_settings, differences


def test_records_survive_and_an_unfinished_line_is_cut_off(tmp_path):
    path = tmp_path / "run" / "journal.jsonl"
    journal = Journal(path)
    journal.add({"name": "a", "value": 1})
    journal.add({"name": "斑马线"})
    with open(path, "ab") as file:
        file.write(b'{"name": "half')
    assert read_journal(path) == [{"name": "a", "value": 1}, {"name": "斑马线"}]
    assert path.read_bytes().endswith(b"half")  # reading changes nothing
    again = Journal(path)
    again.add({"name": "c"})
    assert [record["name"] for record in read_journal(path)] == ["a", "斑马线", "c"]


def test_a_damaged_line_is_refused_or_skipped(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"name": "a"}\n[1]\n{"name": "b"}\n')
    with pytest.raises(DataError, match="line 2 is damaged"):
        Journal(path)
    assert [record["name"] for record in Journal(path, damaged="skip").records] == ["a", "b"]


def test_a_journal_goes_on_from_a_length(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.add({"step": 1})
    length = journal.size()
    journal.add({"step": 2})
    assert Journal(path, length=length).records == [{"step": 1}]
    assert path.stat().st_size == length


def test_keep_rewrites_the_file(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    for step in range(4):
        journal.add({"step": step})
    journal.keep(lambda record: record["step"] % 2 == 1)
    assert [json.loads(line)["step"] for line in journal.path.read_text().splitlines()] == [1, 3]


def test_opening_or_keeping_everything_leaves_the_file_alone(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    assert journal.size() == 0
    for step in range(3):
        journal.add({"step": step})
    before = journal.path.stat()
    Journal(journal.path).keep(lambda record: True)
    after = journal.path.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size)


def test_text_that_is_not_utf8(tmp_path):
    """A file name that is not UTF-8 survives; a damaged letter costs the letter, not the record."""
    path = tmp_path / "journal.jsonl"
    record = {"name": os.fsdecode(b"caf\xe9.png"), "word": "草地"}
    Journal(path).add(record)
    assert json.loads(path.read_text(encoding="utf-8")) == record
    assert Journal(path).records == [record]
    with open(path, "ab") as file:
        file.write(b'{"name": "caf\xe9.png"}\n')
    assert Journal(path).records == [record, {"name": "caf\ufffd.png"}]


def test_a_disk_that_becomes_full_in_the_middle_of_a_line(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.add({"name": "a"})
    whole, write = journal.path.read_bytes(), os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:5]))
        with pytest.raises(OutputError, match=r"journal\.jsonl: the disk is full; free some space"):
            journal.add({"name": "b"})
    assert journal.path.read_bytes() == whole
    assert journal.records == [{"name": "a"}]
    journal.add({"name": "c"})
    assert read_journal(journal.path) == [{"name": "a"}, {"name": "c"}]


def test_every_record_is_on_the_disk_unless_that_is_not_asked_for(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    Journal(tmp_path / "quick.jsonl", sync=False).add({})
    assert synced == []
    Journal(tmp_path / "safe.jsonl").add({})
    assert len(synced) == 1


def test_a_journal_follows_the_umask_and_makes_its_folders(tmp_path):
    before = os.umask(0o027)
    try:
        Journal(tmp_path / "a" / "b" / "journal.jsonl").add({})
    finally:
        os.umask(before)
    assert (tmp_path / "a" / "b" / "journal.jsonl").stat().st_mode & 0o777 == 0o640


def test_a_journal_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(DataError, match="cannot read "):
        Journal(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a file has the name of a folder"):
        write_journal(tmp_path / "file" / "journal.jsonl", [])


def test_a_whole_journal_at_once(tmp_path):
    path = write_journal(tmp_path / "journal.jsonl", [{"a": 1}, {"b": "球"}])
    assert path.read_text(encoding="utf-8") == '{"a": 1}\n{"b": "球"}\n'


def test_differences_are_named_by_their_path():
    before = {
        "model": {"weights": "a", "name": "micro"},
        "sizes": (1, 2),
        "folder": Path("x"),
        "run": {"device": "cpu"},
    }
    now = {"model": {"weights": "b", "name": "micro"}, "sizes": [1, 2], "folder": "x", "run": {"device": "cuda"}}
    now["new"] = 3
    found = differences(before, now, ignore=("run",))
    assert found == ['model.weights: "a" before, "b" now', "new: unset before, 3 now"]
    assert differences(before, before) == []
    with pytest.raises(InputError, match=r"model\.weights.*same settings to resume"):
        check_same_settings(before, now, Path("out"), ignore=("run", "new"))
