import os

import pytest
from caption_files import RECORDS, ROWS_PER_CAPTION, jpeg, listed

from talk2dino.captions import open_source
from talk2dino.errors import DataError


@pytest.mark.parametrize("struct", [True, False])
def test_parquet(tmp_path, struct):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pictures = [jpeg((50 * n, 0, 0)) for n in range(5)]
    images = [{"bytes": p, "path": "x"} for p in pictures] if struct else pictures
    captions = [["a", "b"], ["c"], [], ["d"], None]
    table = pa.table({"image": images, "captions": captions})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    pq.write_table(table, tmp_path / "b.parquet")
    source = open_source(tmp_path)
    found = listed(source)
    assert len(source) == 10
    assert [value for _, _, value in found[:5]] == [
        ("a", "b"), ("c",), "no caption that is not empty", ("d",), "no caption that is not empty",
    ]  # fmt: skip
    assert [number for number, _, _ in found] == list(range(10))
    some = list(source.records(lambda number: number in (3, 6)))
    assert [number for number, _ in some] == [3, 6]
    assert some[0][1].read() == pictures[3]
    pq.write_table(pa.table({"other": [1]}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"c.parquet has the columns other; expected one of image"):
        open_source(tmp_path / "c.parquet")
    (tmp_path / "d.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        open_source(tmp_path / "d.parquet")


def test_parquet_with_a_damaged_page(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    captions = pa.array([b"zero", b"one", b"two", b"\xff\xfe", b"four", b"five"], pa.binary()).view(pa.utf8())
    table = pa.table({"image": [os.urandom(900) for _ in range(6)], "caption": captions})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2, compression="none", use_dictionary=False)
    group = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(0)
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[group.data_page_offset : group.data_page_offset + 20] = b"\xff" * 20
    (tmp_path / "a.parquet").write_bytes(content)
    source = open_source(tmp_path / "a.parquet")
    found = listed(source)
    assert [number for number, _, _ in found] == [0, 1, 2, 3, 4, 5]
    assert all("its part of a.parquet is damaged" in reason for _, _, reason in found[:2])
    assert [value for _, _, value in found[2:]] == [("two",), "its captions are not UTF-8", ("four",), ("five",)]
    assert [n for n, _, _ in listed(source, lambda n: n in (1, 4))] == [1, 4]


@pytest.mark.parametrize("column", ["image_id", "file_name", "image.path"])
def test_one_row_per_caption(tmp_path, column):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pictures = {name: jpeg((60 * n, 0, 0)) for n, (_, name, _) in enumerate(RECORDS)}
    rows = [(name, pictures[name], caption) for name, caption in ROWS_PER_CAPTION]
    images = [{"bytes": data, "path": name if column == "image.path" else None} for name, data, _ in rows]
    values = {"image": images, "caption": [caption for _, _, caption in rows]}
    if column != "image.path":
        values[column] = [name for name, _, _ in rows]
    table = pa.table(values)
    pq.write_table(table.slice(0, 4), tmp_path / "0.parquet", row_group_size=1)
    pq.write_table(table.slice(4), tmp_path / "1.parquet")
    source = open_source(tmp_path)
    found = listed(source)
    assert [(number, captions) for number, _, captions in found[:3]] == [(n, c) for n, _, c in RECORDS]
    assert found[3:] == [(3, "1.parquet:4", "repeats the image and captions of an earlier row")]
    assert len(source) == 4
    for number, name in enumerate(("a.jpg", "b.jpg", "c.jpg")):
        [(_, record)] = source.records(lambda n, number=number: n == number)
        assert record.read() == pictures[name]


def test_equal_paths_with_other_bytes_are_other_images(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    images = [{"bytes": jpeg((90 * n, 0, 0)), "path": "0.jpg"} for n in range(2)]
    pq.write_table(pa.table({"image": images, "text": ["dark", "red"]}), tmp_path / "a.parquet")
    assert [captions for _, _, captions in listed(open_source(tmp_path))] == [("dark",), ("red",)]


def test_rows_that_cannot_be_used_and_several_files(tmp_path):
    """Rows of one file name across files; missing names and bytes; a plain column of bytes beside the name."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    def write(file, rows):
        columns = [list(column) for column in zip(*rows, strict=True)]
        types = (pa.binary(), pa.utf8(), pa.utf8())
        values = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
        pq.write_table(pa.table(dict(zip(("jpg", "file_name", "txt"), values, strict=True))), file, row_group_size=3)

    write(tmp_path / "0.parquet", [(b"A", "a", "1"), (b"X", None, "2"), (None, "c", "3"), (b"Y", None, "2")])
    write(tmp_path / "1.parquet", [(b"B", "b", "4"), (b"A", "a", "5"), (b"C", "d", " ")])
    source = open_source(tmp_path)
    expected = [
        (0, "0.parquet:0", ("1", "5")),
        (1, "0.parquet:1", ("2",)),
        (2, "0.parquet:2", "no image bytes in its row"),
        (3, "0.parquet:3", ("2",)),
        (4, "1.parquet:4", ("4",)),
        (5, "1.parquet:6", "no caption that is not empty"),
    ]
    assert listed(source) == expected
    for number in range(6):
        assert listed(source, lambda n, number=number: n == number) == expected[number : number + 1]
    assert [record.read() for _, record in source.records(lambda n: n in (0, 1, 3, 4))] == [b"A", b"X", b"Y", b"B"]


def test_files_without_wanted_records_are_not_opened(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    for n in range(3):
        pq.write_table(pa.table({"image": [b"%d" % n], "text": [str(n)]}), tmp_path / f"{n}.parquet")
    source = open_source(tmp_path)
    for n in (0, 2):
        (tmp_path / f"{n}.parquet").unlink()
    assert listed(source, lambda number: number == 1) == [(1, "1.parquet:1", ("1",))]


def test_more_rows_than_a_batch(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table({"image": [b"%d" % n for n in range(211)], "text": [str(n) for n in range(211)]})
    pq.write_table(table, tmp_path / "0.parquet", row_group_size=101)
    source = open_source(tmp_path)
    chosen = {0, 63, 64, 100, 101, 165, 210}
    found = list(source.records(chosen.__contains__))
    assert [(number, record.captions, record.read()) for number, record in found] == [
        (number, (str(number),), b"%d" % number) for number in sorted(chosen)
    ]


def test_names_decide_where_there_are_some(tmp_path):
    """Rows of one file name are one record although their bytes differ; names that are not UTF-8 belong to no group."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    names = pa.array([b"a", b"\xff", b"a", b"\xff"], pa.binary()).view(pa.utf8())
    images = [{"bytes": b"image %d" % n, "path": "x"} for n in range(4)]
    table = pa.table({"image": images, "file_name": names, "text": ["one", "two", "three", "two"]})
    pq.write_table(table, tmp_path / "0.parquet", use_dictionary=False)
    source = open_source(tmp_path)
    assert [(number, captions) for number, _, captions in listed(source)] == [
        (0, ("one", "three")), (1, ("two",)), (2, ("two",)),
    ]  # fmt: skip
    assert next(source.records())[1].read() == b"image 0"
