import io
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from talk2dino.captions.layouts import open_source
from talk2dino.captions.source import FirstRecords, Record, Several, Skipped
from talk2dino.errors import DataError


def jpeg(colour=(200, 30, 60), size=(31, 23)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG")
    return buffer.getvalue()


def told(source, wanted=lambda number: True):
    return [(number, r.key, r.captions if isinstance(r, Record) else r.reason) for number, r in source.records(wanted)]


@pytest.mark.parametrize(("year", "name"), [("2014", "COCO_train2014_000000000009.jpg"), ("2017", "000000000009.jpg")])
def test_coco_layouts(tmp_path, year, name):
    (tmp_path / f"train{year}").mkdir()
    (tmp_path / "annotations").mkdir()
    (tmp_path / f"train{year}" / name).write_bytes(jpeg())
    content = {
        "images": [{"id": 9, "file_name": name}, {"id": 5, "file_name": "none.jpg"}, {"id": 9, "file_name": name}],
        "annotations": [
            {"id": 1, "image_id": 9, "caption": " a red\n thing "},
            {"id": 2, "image_id": 9, "caption": ""},
            {"id": 3, "image_id": 9, "caption": "红色"},
            {"id": 4, "image_id": 5, "caption": "  "},
            {"id": 5, "image_id": 77, "caption": "nobody's"},
        ],
    }
    file = tmp_path / "annotations" / f"captions_train{year}.json"
    file.write_text(json.dumps(content))
    for source in (open_source(tmp_path), open_source(file), open_source(file, images=tmp_path / f"train{year}")):
        assert len(source) == 4
        assert told(source) == [
            (0, "9", ("a red thing", "红色")),
            (1, "5", "no caption that is not empty"),
            (2, "9", "duplicate id: its first picture is used"),
            (3, "77", "captions name a picture that the file does not list"),
        ]
        assert told(source, lambda number: number == 3)[0][0] == 3
    record = next(open_source(tmp_path).records())[1]
    assert record.read() == jpeg()


def test_coco_refusals(tmp_path):
    with pytest.raises(DataError, match="no caption source at"):
        open_source(tmp_path / "none")
    with pytest.raises(DataError, match="holds no captions: looked for"):
        open_source(tmp_path)
    file = tmp_path / "captions_train2014.json"
    file.write_bytes(b'{"images": [], "annotations": ["\xff"]}')
    with pytest.raises(DataError, match=r"is not UTF-8 \(byte 32\)"):
        open_source(file)
    file.write_text('{"images": [')
    with pytest.raises(DataError, match="cannot be read as JSON"):
        open_source(file)
    file.write_text('{"images": [{"id": 1}], "annotations": []}')
    with pytest.raises(DataError, match="an entry lacks file_name in 'images'"):
        open_source(file)
    file.write_text('{"images": [], "annotations": []}')
    with pytest.raises(DataError, match=r"no folder train2014 of pictures .* --images"):
        open_source(file)


def test_text_files(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.jpg", "a.PNG", "deep/c.jpg", "d.jpg"):
        (tmp_path / name).write_bytes(jpeg())
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "deep" / "c.txt").write_text("三")
    assert told(open_source(tmp_path)) == [
        (0, "a.PNG", ("one", "two")),
        (1, "b.jpg", "its captions are not UTF-8"),
        (2, "d.jpg", "no .txt of the same name"),
        (3, "deep/c.jpg", ("三",)),
    ]


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
    found = told(source)
    assert len(source) == 7
    assert found[:3] == [
        (0, "a.jpg", ("one",)),
        (1, "b.jpg", ("one", "two")),
        (2, "a.jpg", "a line of the same name and captions: its first one is used"),
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
    assert told(open_source(tmp_path)) == [
        (0, "a.jpg", ("one, and more",)),
        (1, "b.jpg", "no caption that is not empty"),
        (2, "metadata.csv:3", "not UTF-8"),
        (3, "d.jpg", ("last",)),
    ]


def make_tar(path, entries):
    with tarfile.open(path, "w") as tar:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_webdataset(tmp_path):
    entries = [
        ("00000.jpg", jpeg()),
        ("00000.txt", b"from txt\nsecond line"),
        ("00000.json", json.dumps({"caption": "from json", "url": "x"}).encode()),
        ("00001.txt", b"only text"),
        ("00002.png", jpeg()),
        ("00002.txt", "汽车".encode()),
        ("00003.jpg", jpeg()),
        ("00003.txt", b"\xff\xff"),
        ("00000.jpg", jpeg((1, 2, 3))),
        ("00000.txt", b"again"),
        ("00004.jpg", jpeg()),
        ("00004.json", b"{"),
    ]
    make_tar(tmp_path / "0.tar", entries)
    make_tar(tmp_path / "1.tar", [("00009.jpg", jpeg()), ("00009.txt", b"nine")])
    source = open_source(tmp_path)
    found = told(source)
    assert [number for number, _, _ in found] == list(range(7)) == list(range(len(source)))
    assert found[0] == (0, "00000", ("from json",))
    assert found[1] == (1, "00001", "no picture of that name in 0.tar")
    assert found[2] == (2, "00002", ("汽车",))
    assert found[3] == (3, "00003", "its captions are not UTF-8")
    assert found[4] == (4, "00000", "duplicate id: its first sample is used")
    assert found[5][2].startswith("its captions cannot be read")
    assert found[6] == (6, "00009", ("nine",))
    assert told(source, lambda number: number == 6) == [found[6]]
    assert next(source.records())[1].read() == jpeg()


@pytest.mark.parametrize("cut", [0.4, 0.75])
def test_truncated_tar(tmp_path, cut):
    entries = [
        (f"{n:03d}.{kind}", value)
        for n in range(20)
        for kind, value in (("jpg", os.urandom(3001)), ("txt", f"caption {n}".encode()))
    ]
    make_tar(tmp_path / "x.tar", entries)
    whole = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[: int(len(whole) * cut)])
    source = open_source(tmp_path / "x.tar")
    found = list(source.records())
    assert isinstance(found[-1][1], Skipped)
    assert "truncated" in found[-1][1].reason
    good = [record for _, record in found if isinstance(record, Record)]
    assert len(good) >= int(20 * cut) - 2
    for record in good[:-1]:
        assert len(record.read()) == 3001


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
    found = told(source)
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


def test_several_and_first(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        for n in range(3):
            (tmp_path / folder / f"{n}.jpg").write_bytes(jpeg())
            (tmp_path / folder / f"{n}.txt").write_text(f"{folder}{n}")
    both = Several([open_source(tmp_path / "x"), open_source(tmp_path / "y")])
    assert [(n, c[0]) for n, _, c in told(both)] == list(enumerate(["x0", "x1", "x2", "y0", "y1", "y2"]))
    assert [(n, c[0]) for n, _, c in told(both, lambda n: n in (2, 4))] == [(2, "x2"), (4, "y1")]
    first = FirstRecords(both, 4)
    assert len(first) == 4
    assert [n for n, _, _ in told(first)] == [0, 1, 2, 3]
    assert np.all([n % 2 for n, _, _ in told(first, lambda n: n % 2 == 1)])


def coco_file(folder, content):
    (folder / "train2014").mkdir(exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    file = folder / "annotations" / "captions_train2014.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return file


@pytest.mark.parametrize(
    "content",
    [
        [],
        "text",
        {"images": None, "annotations": None},
        {"images": [{"id": [1], "file_name": "a"}], "annotations": []},
        {"images": [], "annotations": [{"image_id": [1], "caption": "a"}]},
        {"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "segmentation": []}]},
    ],
)
def test_what_is_no_coco_captions_file_is_told_what_is_expected(tmp_path, content):
    file = coco_file(tmp_path, content)
    with pytest.raises(DataError, match=r"is not a COCO captions file.*expected 'images' \(id, file_name\)"):
        open_source(file)


def test_byte_order_marks_are_no_part_of_the_text(tmp_path):
    mark = b"\xef\xbb\xbf"
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "one"}]}
    assert told(open_source(coco_file(tmp_path, mark + json.dumps(content).encode()))) == [(0, "1", ("one",))]
    lines = tmp_path / "lines"
    lines.mkdir()
    (lines / "metadata.jsonl").write_bytes(mark + b'{"file_name": "a.jpg", "text": "one"}')
    assert told(open_source(lines)) == [(0, "a.jpg", ("one",))]
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "a.jpg").write_bytes(jpeg())
    (plain / "a.txt").write_bytes(mark + b"one")
    assert told(open_source(plain)) == [(0, "a.jpg", ("one",))]


def test_captions_that_are_no_text(tmp_path):
    """Half a character (JSON can hold one) and objects are no captions; names with half a character do no harm."""
    lines = [
        {"file_name": "a.jpg", "captions": ["half \ud800", "whole"]},
        {"file_name": "b.jpg", "captions": {"en": "object"}},
        {"file_name": "\ud800.jpg", "text": "odd name"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert told(open_source(tmp_path)) == [
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
    first, second = told(open_source(file))
    assert first[:2] == (0, "metadata.csv:1")
    assert "not CSV (field larger" in first[2]
    assert second == (1, "b.jpg", ("short",))
    file.write_text(f"{'x' * 200_000}\n")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        open_source(file)


def test_missing_folder_of_pictures_is_told_at_once(tmp_path):
    file = coco_file(tmp_path, {"images": [], "annotations": []})
    with pytest.raises(DataError, match=r"no folder of pictures at .*nowhere; say where they are with --images"):
        open_source(file, images=tmp_path / "nowhere")


def test_a_tar_that_is_damaged_in_the_middle_is_not_taken_for_a_short_one(tmp_path):
    make_tar(tmp_path / "x.tar", [(f"{n}.{k}", os.urandom(700)) for n in range(9) for k in ("jpg", "txt")])
    content = bytearray((tmp_path / "x.tar").read_bytes())
    content[8 * 1536 : 8 * 1536 + 512] = os.urandom(512)  # the ninth header; each entry takes three blocks
    (tmp_path / "x.tar").write_bytes(content)
    found = list(open_source(tmp_path / "x.tar").records())
    assert len(found) == 5
    assert found[-1][1] == Skipped("x.tar", "the tar is damaged or truncated after 4 samples")


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
    found = told(source)
    assert [number for number, _, _ in found] == [0, 1, 2, 3, 4, 5]
    assert all("its part of a.parquet is damaged" in reason for _, _, reason in found[:2])
    assert [value for _, _, value in found[2:]] == [("two",), "its captions are not UTF-8", ("four",), ("five",)]
    assert [n for n, _, _ in told(source, lambda n: n in (1, 4))] == [1, 4]


FLICKR = [("a.jpg", "one"), ("b.jpg", "two"), ("a.jpg", "three"), ("c.jpg", "four"), ("a.jpg", "one"), ("b.jpg", "")]
GROUPED = [(0, "a.jpg", ("one", "three")), (1, "b.jpg", ("two",)), (2, "c.jpg", ("four",))]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_line_a_caption(tmp_path, ending):
    if ending == "csv":
        text = "image,caption_number,caption\n" + "".join(f"{name},0,{caption}\n" for name, caption in FLICKR)
    else:
        text = "".join(json.dumps({"file_name": name, "text": caption}) + "\n" for name, caption in FLICKR)
    (tmp_path / f"metadata.{ending}").write_text(text)
    source = open_source(tmp_path)
    assert told(source) == [*GROUPED, (3, "a.jpg", "a line of the same name and captions: its first one is used")]
    assert len(source) == 4
    assert told(source, lambda number: number == 2) == GROUPED[2:]


@pytest.mark.parametrize("column", ["image_id", "file_name", "image.path"])
def test_a_parquet_row_a_caption(tmp_path, column):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pictures = {name: jpeg((60 * n, 0, 0)) for n, (_, name, _) in enumerate(GROUPED)}
    rows = [(name, pictures[name], caption) for name, caption in FLICKR]
    images = [{"bytes": data, "path": name if column == "image.path" else None} for name, data, _ in rows]
    values = {"image": images, "caption": [caption for _, _, caption in rows]}
    if column != "image.path":
        values[column] = [name for name, _, _ in rows]
    table = pa.table(values)
    pq.write_table(table.slice(0, 4), tmp_path / "0.parquet", row_group_size=1)
    pq.write_table(table.slice(4), tmp_path / "1.parquet")
    source = open_source(tmp_path)
    found = told(source)
    assert [(number, captions) for number, _, captions in found[:3]] == [(n, c) for n, _, c in GROUPED]
    assert found[3:] == [(3, "1.parquet:4", "a row of the same picture and captions: its first one is used")]
    assert len(source) == 4
    for number, name in enumerate(("a.jpg", "b.jpg", "c.jpg")):
        [(_, record)] = source.records(lambda n, number=number: n == number)
        assert record.read() == pictures[name]


def test_equal_paths_of_other_pictures_are_no_group(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    images = [{"bytes": jpeg((90 * n, 0, 0)), "path": "0.jpg"} for n in range(2)]
    pq.write_table(pa.table({"image": images, "text": ["dark", "red"]}), tmp_path / "a.parquet")
    assert [captions for _, _, captions in told(open_source(tmp_path))] == [("dark",), ("red",)]


def metadata_folder(folder, text):
    folder.mkdir(parents=True)
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.jpg", "text": text}))


def test_splits_of_folders_and_files(tmp_path):
    metadata_folder(tmp_path / "hub" / "train", "of train")
    metadata_folder(tmp_path / "hub" / "validation", "of validation")
    for split, text in (("train", "of train"), ("val", "of validation")):
        assert told(open_source(tmp_path / "hub", split=split)) == [(0, "a.jpg", (text,))]
    with pytest.raises(DataError, match="holds the splits train, val, but none named test: choose with --split"):
        open_source(tmp_path / "hub", split="test")
    (tmp_path / "tars").mkdir()
    for name in ("x-train-0", "x-test-0"):
        make_tar(tmp_path / "tars" / f"{name}.tar", [("0.jpg", jpeg()), ("0.txt", name.encode())])
    assert told(open_source(tmp_path / "tars", split="test")) == [(0, "0", ("x-test-0",))]
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    (tmp_path / "parquet" / "data").mkdir(parents=True)
    for split in ("train", "test", "validation"):
        table = pa.table({"image": [jpeg()], "caption": [f"of {split}"]})
        pq.write_table(table, tmp_path / "parquet" / "data" / f"{split}-00000-of-00001.parquet")
    for split in ("train", "test", "validation"):
        assert [c for _, _, c in told(open_source(tmp_path / "parquet", split=split))] == [(f"of {split}",)]


def test_two_years_of_coco_are_not_guessed(tmp_path):
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "2014"}]}
    coco_file(tmp_path, content)
    content["annotations"][0]["caption"] = "2017"
    (tmp_path / "annotations" / "captions_train2017.json").write_text(json.dumps(content))
    assert told(open_source(tmp_path)) == [(0, "1", ("2014",))]  # there are no pictures of the other year
    (tmp_path / "train2017").mkdir()
    with pytest.raises(DataError, match=r"2014.json and captions_train2017.json: say which, with --split train2014 or"):
        open_source(tmp_path)
    assert told(open_source(tmp_path, split="train2017")) == [(0, "1", ("2017",))]


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
    both = [Several([open_source(tmp_path / a), open_source(tmp_path / "2a")]).description for a in ("1a", "1b")]
    assert both[0]["content"] != both[1]["content"]


def test_coco_entries_that_say_nothing(tmp_path):
    """A null file name is a skipped record; captions that are no text or stand there twice are counted."""
    one = {"id": 1, "image_id": 1, "caption": "one"}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": None}],
        "annotations": [one, {"id": 2, "image_id": 1, "caption": None}, {**one, "id": 3}, one, {**one, "image_id": 2}],
    }
    source = open_source(coco_file(tmp_path, content))
    assert told(source) == [(0, "1", ("one", "one")), (1, "2", "its file_name is empty")]
    assert source.notes == [
        "captions_train2014.json: 1 annotations have no text as their caption and are left out",
        "captions_train2014.json: 1 annotations stand there twice and are left out",
    ]


def test_a_cut_tar_is_noted(tmp_path):
    make_tar(tmp_path / "x.tar", [(f"{n}.{kind}", os.urandom(700)) for n in range(9) for kind in ("jpg", "txt")])
    whole = (tmp_path / "x.tar").read_bytes()
    assert not open_source(tmp_path).notes
    (tmp_path / "x.tar").write_bytes(whole[:9000])
    [note] = FirstRecords(Several([open_source(tmp_path)]), 5).notes
    assert note.startswith("x.tar: the tar is ")
    assert "after 3 samples" in note
