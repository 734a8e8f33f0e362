import json

import numpy as np
import pytest
from caption_files import coco_file, jpeg, listed, make_tar

from talk2dino.captions import FirstRecords, JoinedSources, open_source


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
