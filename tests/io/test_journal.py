"""The journal that everything resumable keeps, and the comparison of settings."""

import json
from pathlib import Path

import pytest

from talk2dino.errors import DataError, InputError
from talk2dino.io.journal import Journal, read_journal
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
