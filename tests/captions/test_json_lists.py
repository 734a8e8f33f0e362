import json
import math
import tracemalloc

import pytest

from talk2dino.captions import json_lists
from talk2dino.captions.json_lists import json_entries
from talk2dino.errors import DataError

CONTENT = {
    "info": {"images": [{"id": "inner"}], "year": 2014, "nothing": None},
    "images": [
        {"id": 1, "file_name": 'a "b" \\ é 汽车 \U0001f697.jpg', "more": [1, 2.5e-3, [], {}]},
        12345,
        "text",
        [],
    ],
    "number": -12.5,
    "licenses": [],
    "annotations": [{"caption": "x" * 100, "image_id": 1}, 678, True, None],
    "empty": [],
}


def entries(path, lists=("images", "annotations")):
    found = set()
    return list(json_entries(path, lists, found)), found


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_entries_are_those_of_the_whole(tmp_path, monkeypatch, piece, indent, ascii_only):
    monkeypatch.setattr(json_lists, "PIECE", piece)
    path = tmp_path / "x.json"
    path.write_text(json.dumps(CONTENT, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    listed, found = entries(path)
    assert listed == [(name, entry) for name in ("images", "annotations") for entry in CONTENT[name]]
    assert found == {"images", "annotations"}
    assert entries(path, ["empty", "number", "none"]) == ([], {"empty"})


def test_a_file_that_was_cut_off_anywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lists, "PIECE", 16)
    path = tmp_path / "x.json"
    content = json.dumps({"images": CONTENT["images"], "annotations": [1, 2]}, ensure_ascii=False).encode()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"cannot be read as JSON: .|is not UTF-8 \(near"):
            entries(path)
    path.write_bytes(content)
    assert len(entries(path)[0]) == 6


def test_what_is_not_utf8_or_no_object(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lists, "PIECE", 8)
    path = tmp_path / "x.json"
    content = '{"images": ["汽车", "汽车", "汽车"]}'.encode()
    path.write_bytes(b"\xef\xbb\xbf" + content)
    assert len(entries(path)[0]) == 3
    for mark in (b"", b"\xef\xbb\xbf"):
        for place in (12, 22, 23, 32):
            path.write_bytes(mark + content[:place] + b"\xff" + content[place:])
            with pytest.raises(DataError, match=r"is not UTF-8 \(near .*\\\\xff.*\); convert it first"):
                entries(path)
    for text in ("[1]", '"text"', "5"):
        path.write_text(text)
        assert entries(path) == ([], set())
    for text in (
        '{"images": [1 2]}',
        '{"images": [1,]}',
        '{"images" [1]}',
        "{1: 2}",
        '{"a": nul}',
        '{"images": [1]',
        '{"a": 1} x',
    ):
        path.write_text(text)
        with pytest.raises(DataError, match="cannot be read as JSON"):
            entries(path)


def test_values_are_those_of_the_standard_library(tmp_path):
    """What json.dump writes is accepted: NaN, integers of any size, half a surrogate pair."""
    path = tmp_path / "x.json"
    content = {"images": [{"id": 2**70, "score": float("inf"), "half": "a \ud800"}, -0.0, 1e-7]}
    path.write_text(json.dumps(content))
    assert [entry for _, entry in entries(path)[0]] == content["images"]
    path.write_text('{"images": [NaN]}')
    [(_, value)], _ = entries(path)
    assert math.isnan(value)


def test_nested_brackets(tmp_path):
    path = tmp_path / "x.json"
    for text in ('{"images": ' + "[" * 100_000, '{"other": ' + "[" * 100_000 + "]" * 100_000 + "}"):
        path.write_text(text)
        with pytest.raises(DataError, match=r"cannot be read as JSON: (too many nested brackets|.*cut off)"):
            entries(path)


def test_a_list_that_occurs_twice_and_one_that_is_none(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(' {"images" : [1 , 2] , "annotations" : {"images": [3]}, "images" : [ ] , "images": [4]} \n')
    assert entries(path) == ([("images", 1), ("images", 2), ("images", 4)], {"images"})


def test_memory_holds_a_few_pieces(tmp_path, monkeypatch):
    """Not the file: 3 MB of entries are read in pieces of 4 kB."""
    monkeypatch.setattr(json_lists, "PIECE", 4096)
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"images": [{"id": n, "text": "x" * 100} for n in range(23_000)]}))
    tracemalloc.start()
    try:
        count = sum(1 for _ in json_entries(path, ["images"], set()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 23_000
    assert peak < 200_000 < path.stat().st_size / 10
