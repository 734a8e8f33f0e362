import hashlib
import json
from typing import ClassVar

import numpy as np
import pytest
from caption_files import coco_file, jpeg, listed, make_tar

from talk2dino.captions import CaptionSource, FirstRecords, JoinedSources, Record, Skipped, make_record, open_source
from talk2dino.captions.files import file_reader
from talk2dino.errors import DataError


def test_several_and_first(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        for n in range(3):
            (tmp_path / folder / f"{n}.jpg").write_bytes(jpeg())
            (tmp_path / folder / f"{n}.txt").write_text(f"{folder}{n}")
    both = JoinedSources([open_source(tmp_path / "x"), open_source(tmp_path / "y")])
    assert [(n, c[0]) for n, _, c in listed(both)] == list(enumerate(["x0", "x1", "x2", "y0", "y1", "y2"]))
    assert [(n, c[0]) for n, _, c in listed(both, lambda n: n in (2, 4))] == [(2, "x2"), (4, "y1")]
    first = FirstRecords(both, 4)
    assert len(first) == 4
    assert [n for n, _, _ in listed(first)] == [0, 1, 2, 3]
    assert np.all([n % 2 for n, _, _ in listed(first, lambda n: n % 2 == 1)])


def test_a_source_tells_its_content(tmp_path):
    """The same content elsewhere is the same source; another caption, or a picture of another size, is another."""

    def content(folder):
        return open_source(folder).description["content"]

    def text_files(folder, picture):
        folder.mkdir()
        (folder / "a.jpg").write_bytes(jpeg())
        (folder / "a.txt").write_text("one")
        if picture:
            (folder / "a.jpg").write_bytes(jpeg() + b"\0")

    def metadata(folder, picture):
        folder.mkdir()
        (folder / "a.jpg").write_bytes(jpeg() + b"\0" * picture)
        (folder / "metadata.jsonl").write_text('{"file_name": "a.jpg", "text": "one"}')

    def tar(folder, picture):
        folder.mkdir()
        make_tar(folder / "0.tar", [("a.jpg", jpeg() + b"\0" * picture), ("a.txt", b"one")])

    def coco(folder, picture):
        folder.mkdir()
        listed = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "one"}]}
        coco_file(folder, listed)
        (folder / "train2014" / "a.jpg").write_bytes(jpeg() + b"\0" * picture)

    def parquet(folder, picture):
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        folder.mkdir()
        pq.write_table(pa.table({"image": [jpeg() + b"\0" * picture], "text": ["one"]}), folder / "0.parquet")

    for n, make in enumerate((text_files, metadata, tar, coco, parquet)):
        for name, picture in (("a", 0), ("b", 0), ("c", 1)):
            make(tmp_path / f"{n}{name}", picture)
        assert content(tmp_path / f"{n}a") == content(tmp_path / f"{n}b") != content(tmp_path / f"{n}c")
    (tmp_path / "1b" / "metadata.jsonl").write_text('{"file_name": "a.jpg", "text": "two"}')
    assert content(tmp_path / "1a") != content(tmp_path / "1b")
    both = [JoinedSources([open_source(tmp_path / a), open_source(tmp_path / "2a")]).description for a in ("1a", "1b")]
    assert both[0]["content"] != both[1]["content"]


def test_byte_order_marks_are_no_part_of_the_text(tmp_path):
    mark = b"\xef\xbb\xbf"
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "one"}]}
    assert listed(open_source(coco_file(tmp_path, mark + json.dumps(content).encode()))) == [(0, "1", ("one",))]
    lines = tmp_path / "lines"
    lines.mkdir()
    (lines / "metadata.jsonl").write_bytes(mark + b'{"file_name": "a.jpg", "text": "one"}')
    assert listed(open_source(lines)) == [(0, "a.jpg", ("one",))]
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "a.jpg").write_bytes(jpeg())
    (plain / "a.txt").write_bytes(mark + b"one")
    assert listed(open_source(plain)) == [(0, "a.jpg", ("one",))]


def test_fingerprints_of_0_1_0(tmp_path):
    """Stores made by talk2dino 0.1.0 can be continued: descriptions and fingerprints are what it wrote."""
    (tmp_path / "txt" / "deep").mkdir(parents=True)
    (tmp_path / "txt" / "b.jpg").write_bytes(b"12345")
    (tmp_path / "txt" / "b.txt").write_text("one\ntwo")
    (tmp_path / "txt" / "deep" / "a.PNG").write_bytes(b"123")
    for kind in ("jsonl", "csv"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "a.jpg").write_bytes(b"1234567")
    lines = '{"file_name": "a.jpg", "text": "one"}\n{"file_name": "none.jpg", "text": "two"}\n'
    (tmp_path / "jsonl" / "metadata.jsonl").write_text(lines)
    (tmp_path / "csv" / "metadata.csv").write_text("image,caption\na.jpg,one\na.jpg,two\n")
    (tmp_path / "coco").mkdir()
    images = [{"id": 3, "file_name": "a.jpg"}, {"id": 5, "file_name": "b.jpg"}]
    annotations = [{"id": 1, "image_id": 3, "caption": "one"}]
    coco_file(tmp_path / "coco", {"images": images, "annotations": annotations})
    (tmp_path / "coco" / "train2014" / "a.jpg").write_bytes(b"12")
    (tmp_path / "tar").mkdir()
    for name in ("0.tar", "1.tar"):
        entries = [("x/0.jpg", b"12345"), ("x/0.txt", b"one"), ("x/1.json", b'{"caption": "two"}')]
        make_tar(tmp_path / "tar" / name, entries)
    txt = {"kind": "txt", "folder": "txt", "records": 2}
    tar = {"kind": "tar", "files": ["0.tar", "1.tar"], "records": 4}
    coco = {"kind": "coco", "file": "captions_train2014.json", "images": "train2014", "records": 2}
    expected = {
        "txt": {**txt, "content": "b5f572a02cf55f53"},
        "jsonl": {"kind": "jsonl", "folder": "jsonl", "records": 2, "content": "166cf42b05809e9c"},
        "csv": {"kind": "csv", "folder": "csv", "records": 1, "content": "8ccbb4701196c374"},
        "coco": {**coco, "content": "3685e1d7c00c0cb8"},
        "tar": {**tar, "content": "28bbbf1f891e3a72"},
    }
    assert {name: open_source(tmp_path / name).description for name in expected} == expected
    joined = FirstRecords(JoinedSources([open_source(tmp_path / "txt"), open_source(tmp_path / "tar")]), 3)
    assert joined.description == {
        "kind": "several",
        "sources": [txt, tar],
        "records": 3,
        "content": "56ffc9e267ecb954",
    }


def test_fingerprint_of_parquet(tmp_path):
    """As 0.1.0: name and size of each file, and its footer, which ends 8 bytes before the end."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [b"12345"], "text": ["one"]}), tmp_path / "0.parquet")
    content = (tmp_path / "0.parquet").read_bytes()
    footer = content[-8 - int.from_bytes(content[-8:-4], "little") : -8]
    digest = hashlib.sha256(repr(("0.parquet", len(content))).encode() + repr((footer,)).encode()).hexdigest()
    description = {"kind": "parquet", "files": ["0.parquet"], "records": 1, "content": digest[:16]}
    assert open_source(tmp_path).description == description


def test_first_records_stop_reading(tmp_path):
    """The rest of a long source is not read."""

    class Endless(CaptionSource):
        description: ClassVar = {"kind": "endless"}

        def __len__(self):
            return 11

        def records(self, wanted=lambda number: True):
            for number in range(11):
                assert number < 4
                if wanted(number):
                    yield number, Skipped(str(number), "none")

    assert [number for number, _ in FirstRecords(Endless(), 3).records()] == [0, 1, 2]
    assert [number for number, _ in FirstRecords(Endless(), 3).records(lambda number: number > 0)] == [1, 2]
    assert len(FirstRecords(Endless(), 13)) == 11
    assert FirstRecords(Endless(), 3).description == {"kind": "endless", "records": 3}


def test_make_record():
    kept = make_record("a", [" one\n two", "", 3, None, "half \udc80", "\u6c7d"], bytes)
    assert kept == Record("a", ("one two", "\u6c7d"), bytes)
    assert make_record("a", "one\ttwo", bytes) == Record("a", ("one two",), bytes)
    for nothing in (None, 5, {"en": "one"}, [], ["\ud800"], "  "):
        assert make_record("a", nothing, bytes) == Skipped("a", "no caption that is not empty")


@pytest.mark.parametrize("name", ["../x", "..", "a/../../x", "/etc/passwd"])
def test_names_that_lead_out_of_the_folder(tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "x").write_bytes(b"outside")
    with pytest.raises(DataError, match="leads out of"):
        file_reader(tmp_path / "in", name)()


@pytest.mark.parametrize("name", ["..x", "a/../x", "./x"])
def test_names_that_stay_in_the_folder(tmp_path, name):
    (tmp_path / "a").mkdir()
    for inside in ("..x", "x"):
        (tmp_path / inside).write_bytes(b"inside")
    assert file_reader(tmp_path, name)() == b"inside"
