import json

import pytest
from caption_files import coco_file, jpeg, listed

from talk2dino.captions import open_source
from talk2dino.captions.coco import find_coco_images
from talk2dino.errors import DataError


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
            {"id": 6, "image_id": 77, "caption": "nobody's either"},
        ],
    }
    file = tmp_path / "annotations" / f"captions_train{year}.json"
    file.write_text(json.dumps(content))
    for source in (open_source(tmp_path), open_source(file), open_source(file, images=tmp_path / f"train{year}")):
        assert len(source) == 4
        assert listed(source) == [
            (0, "9", ("a red thing", "红色")),
            (1, "5", "no caption that is not empty"),
            (2, "9", "repeated image id: its first entry is used"),
            (3, "77", "captions name an image that the file does not list"),
        ]
        assert listed(source, lambda number: number == 3)[0][0] == 3
    record = next(open_source(tmp_path).records())[1]
    assert record.read() == jpeg()


def test_coco_refusals(tmp_path):
    with pytest.raises(DataError, match="no caption source at"):
        open_source(tmp_path / "none")
    with pytest.raises(DataError, match="holds no captions: looked for"):
        open_source(tmp_path)
    file = tmp_path / "captions_train2014.json"
    file.write_bytes(b'{"images": [], "annotations": ["\xff"]}')
    with pytest.raises(DataError, match=r"is not UTF-8 \(near .*images.*xff"):
        open_source(file)
    file.write_text('{"images": [')
    with pytest.raises(DataError, match="cannot be read as JSON"):
        open_source(file)
    file.write_text('{"images": [{"id": 1}], "annotations": []}')
    with pytest.raises(DataError, match="an entry of 'images' lacks file_name"):
        open_source(file)
    file.write_text('{"images": [], "annotations": []}')
    with pytest.raises(DataError, match=r"no image folder train2014 beside .* --images FOLDER"):
        open_source(file)


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
def test_other_json_is_refused(tmp_path, content):
    file = coco_file(tmp_path, content)
    with pytest.raises(DataError, match=r"is not a COCO captions file.*expected 'images' \(id, file_name\)"):
        open_source(file)


def test_missing_image_folder(tmp_path):
    file = coco_file(tmp_path, {"images": [], "annotations": []})
    with pytest.raises(
        DataError,
        match=r"--images .*nowhere is not a folder; give the folder that holds the images of captions_train2014.json",
    ):
        open_source(file, images=tmp_path / "nowhere")


def test_entries_without_content(tmp_path):
    """A null file name is a skipped record; captions without text and repeated captions are counted."""
    one = {"id": 1, "image_id": 1, "caption": "one"}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": None}],
        "annotations": [one, {"id": 2, "image_id": 1, "caption": None}, {**one, "id": 3}, one, {**one, "image_id": 2}],
    }
    source = open_source(coco_file(tmp_path, content))
    assert listed(source) == [(0, "1", ("one", "one")), (1, "2", "its file_name is empty")]
    assert source.notes == [
        "captions_train2014.json: annotations left out because they have no text as their caption: 1",
        "captions_train2014.json: annotations left out because they are repeated: 1",
    ]


def test_captions_in_their_order_and_images_elsewhere(tmp_path):
    """Captions of interleaved images, ids as numbers and as text, and annotations before images."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.jpg").write_bytes(b"image b")
    captions = [(7, "7 a"), ("7", "text a"), (3, "3 a"), (7, "7 b"), (3, "3 b"), (7, "7 c")]
    content = {
        "annotations": [{"id": n, "image_id": i, "caption": c} for n, (i, c) in enumerate(captions)],
        "images": [{"id": i, "file_name": name} for i, name in ((3, "a.jpg"), (7, "b.jpg"), ("7", "c.jpg"))],
    }
    source = open_source(coco_file(tmp_path, content), images=tmp_path / "elsewhere")
    assert source.description["images"] == "elsewhere"
    assert listed(source) == [(0, "3", ("3 a", "3 b")), (1, "7", ("7 a", "7 b", "7 c")), (2, "7", ("text a",))]
    [(_, record)] = source.records(lambda number: number == 1)
    assert record.read() == b"image b"


@pytest.mark.parametrize("place", ["train2014", "images/train2014", "annotations/train2014", "annotations/images"])
def test_image_folders(tmp_path, place):
    file = coco_file(tmp_path, {"images": [], "annotations": []})
    (tmp_path / "train2014").rmdir()
    (tmp_path / place).mkdir(parents=True)
    assert find_coco_images(file) == tmp_path / place


def test_a_caption_that_pandas_left_empty(tmp_path):
    """NaN is not text; the rest of the file is read."""
    content = b'{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": NaN}, '
    source = open_source(coco_file(tmp_path, content + b'{"image_id": 1, "caption": "one"}]}'))
    assert listed(source) == [(0, "1", ("one",))]
    assert source.notes == [
        "captions_train2014.json: annotations left out because they have no text as their caption: 1"
    ]


def test_missing_lists_are_named(tmp_path):
    with pytest.raises(DataError, match=r"is not a COCO captions file: it has no list annotations; expected"):
        open_source(coco_file(tmp_path, {"images": []}))


def test_many_captions_keep_their_order(tmp_path):
    annotations = [{"id": n, "image_id": n % 3, "caption": str(n)} for n in range(101)]
    images = [{"id": n, "file_name": f"{n}.jpg"} for n in (2, 0, 1)]
    source = open_source(coco_file(tmp_path, {"images": images, "annotations": annotations}))
    assert [captions for _, _, captions in listed(source)] == [
        tuple(map(str, range(first, 101, 3))) for first in (2, 0, 1)
    ]
