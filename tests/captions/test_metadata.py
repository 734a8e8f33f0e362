import json

import pytest
from caption_files import RECORDS, ROWS_PER_CAPTION, jpeg, listed

from talk2dino.captions import open_source
from talk2dino.errors import DataError


def test_metadata_jsonl(tmp_path):
    lines = [
        b'{"file_name": "a.jpg", "text": "one"}',
        b'{"file_name": "b.jpg", "captions": ["one", 3, "two"]}',
        b"",
        b'{"file_name": "a.jpg", "text": "one"}',
        b"nonsense",
        b'{"text": "no file"}',
        b'{"file_name": "c.jpg", "text": "\xff"}',
        b'{"file_name": "../../etc/passwd", "text": "out"}',
    ]
    (tmp_path / "metadata.jsonl").write_bytes(b"\n".join(lines))
    (tmp_path / "a.jpg").write_bytes(jpeg())
    source = open_source(tmp_path)
    found = listed(source)
    assert len(source) == 7
    assert found[:3] == [
        (0, "a.jpg", ("one",)),
        (1, "b.jpg", ("one", "two")),
        (2, "a.jpg", "repeats the image and captions of an earlier row"),
    ]
    assert [reason for _, _, reason in found[3:6]] == [
        "not JSON",
        "no field file_name, filename, image, path, filepath",
        "not UTF-8",
    ]
    with pytest.raises(DataError, match="leads out of"):
        list(source.records())[-1][1].read()


def test_metadata_csv(tmp_path):
    (tmp_path / "metadata.csv").write_bytes(
        b'\xef\xbb\xbffile_name,text\na.jpg,"one, and\nmore"\nb.jpg,\nc.jpg,caf\xe9\nd.jpg,last\n'
    )
    assert listed(open_source(tmp_path)) == [
        (0, "a.jpg", ("one, and more",)),
        (1, "b.jpg", "no caption that is not empty"),
        (2, "metadata.csv:3", "not UTF-8"),
        (3, "d.jpg", ("last",)),
    ]


def test_captions_that_are_no_text(tmp_path):
    """Half a character (JSON can hold one) and objects are no captions; names with half a character do no harm."""
    lines = [
        {"file_name": "a.jpg", "captions": ["half \ud800", "whole"]},
        {"file_name": "b.jpg", "captions": {"en": "object"}},
        {"file_name": "\ud800.jpg", "text": "odd name"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert listed(open_source(tmp_path)) == [
        (0, "a.jpg", ("whole",)),
        (1, "b.jpg", "no caption that is not empty"),
        (2, "\ud800.jpg", ("odd name",)),
    ]


def test_csv_without_a_heading_or_with_an_endless_field(tmp_path):
    file = tmp_path / "metadata.csv"
    for content, columns in ((b"a.jpg,a ball\n", "a.jpg, a ball"), (b"", r"\(none\)")):
        file.write_bytes(content)
        with pytest.raises(DataError, match=rf"has the columns {columns} in its first line; expected one of file_name"):
            open_source(file)
    file.write_text(f"file_name,text\na.jpg,{'x' * 200_000}\nb.jpg,short\n")
    first, second = listed(open_source(file))
    assert first[:2] == (0, "metadata.csv:1")
    assert "not CSV (field larger" in first[2]
    assert second == (1, "b.jpg", ("short",))
    file.write_text(f"{'x' * 200_000}\n")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        open_source(file)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_one_line_per_caption(tmp_path, ending):
    if ending == "csv":
        text = "image,caption_number,caption\n" + "".join(f"{name},0,{caption}\n" for name, caption in ROWS_PER_CAPTION)
    else:
        text = "".join(json.dumps({"file_name": name, "text": caption}) + "\n" for name, caption in ROWS_PER_CAPTION)
    (tmp_path / f"metadata.{ending}").write_text(text)
    source = open_source(tmp_path)
    assert listed(source) == [*RECORDS, (3, "a.jpg", "repeats the image and captions of an earlier row")]
    assert len(source) == 4
    assert listed(source, lambda number: number == 2) == RECORDS[2:]


def test_fields_in_their_order_and_empty_ones(tmp_path):
    lines = [
        {"text": "second", "captions": ["first"], "file_name": "a.jpg", "image": "b.jpg"},
        {"captions": [], "caption": "", "sentences": ["third"], "filename": "c.jpg"},
        {"txt": "last", "file_name": 5, "filepath": "d.jpg"},
        ["a list"],
        {"file_name": "", "text": "no name"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n" + "[" * 100_000)
    assert listed(open_source(tmp_path)) == [
        (0, "a.jpg", ("first",)),
        (1, "c.jpg", ("third",)),
        (2, "d.jpg", ("last",)),
        (3, "metadata.jsonl:4", "not a JSON object"),
        (4, "metadata.jsonl:5", "no field file_name, filename, image, path, filepath"),
        (5, "metadata.jsonl:6", "not JSON"),
    ]


def test_jsonl_is_preferred_to_csv(tmp_path):
    (tmp_path / "metadata.csv").write_text("file_name,text\na.jpg,csv\n")
    assert listed(open_source(tmp_path)) == [(0, "a.jpg", ("csv",))]
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.jpg", "text": "jsonl"}')
    assert listed(open_source(tmp_path)) == [(0, "a.jpg", ("jsonl",))]


@pytest.mark.parametrize("heading", ["file_name,title", "title,text"])
def test_csv_needs_both_columns(tmp_path, heading):
    (tmp_path / "metadata.csv").write_text(f"{heading}\na,b\n")
    with pytest.raises(DataError, match=rf"has the columns {heading.replace(',', ', ')} in its first line"):
        open_source(tmp_path)
