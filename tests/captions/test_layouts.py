import json

import pytest
from caption_files import coco_file, jpeg, listed, make_tar, metadata_folder

from talk2dino.captions import open_source, open_sources
from talk2dino.errors import DataError


def test_splits_of_folders_and_files(tmp_path):
    metadata_folder(tmp_path / "hub" / "train", "of train")
    metadata_folder(tmp_path / "hub" / "validation", "of validation")
    for split, text in (("train", "of train"), ("val", "of validation")):
        assert listed(open_source(tmp_path / "hub", split=split)) == [(0, "a.jpg", (text,))]
    with pytest.raises(DataError, match="holds the splits train, val, not test: choose one with --split"):
        open_source(tmp_path / "hub", split="test")
    (tmp_path / "tars").mkdir()
    for name in ("x-train-0", "x-test-0"):
        make_tar(tmp_path / "tars" / f"{name}.tar", [("0.jpg", jpeg()), ("0.txt", name.encode())])
    assert listed(open_source(tmp_path / "tars", split="test")) == [(0, "0", ("x-test-0",))]
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    (tmp_path / "parquet" / "data").mkdir(parents=True)
    for split in ("train", "test", "validation"):
        table = pa.table({"image": [jpeg()], "caption": [f"of {split}"]})
        pq.write_table(table, tmp_path / "parquet" / "data" / f"{split}-00000-of-00001.parquet")
    for split in ("train", "test", "validation"):
        assert [c for _, _, c in listed(open_source(tmp_path / "parquet", split=split))] == [(f"of {split}",)]


def test_two_years_of_coco_are_not_guessed(tmp_path):
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "2014"}]}
    coco_file(tmp_path, content)
    content["annotations"][0]["caption"] = "2017"
    (tmp_path / "annotations" / "captions_train2017.json").write_text(json.dumps(content))
    assert listed(open_source(tmp_path)) == [(0, "1", ("2014",))]  # the images of the other year are missing
    (tmp_path / "train2017").mkdir()
    with pytest.raises(
        DataError,
        match=r"2014.json and captions_train2017.json: choose one with --split train2014 or --split train2017",
    ):
        open_source(tmp_path)
    assert listed(open_source(tmp_path, split="train2017")) == [(0, "1", ("2017",))]


def text_folder(folder):
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(jpeg())
    (folder / "a.txt").write_text("one")


def test_a_split_is_refused_where_the_layout_has_none(tmp_path):
    text_folder(tmp_path / "txt")
    metadata_folder(tmp_path / "jsonl", "one")
    (tmp_path / "tars").mkdir()
    make_tar(tmp_path / "tars" / "0.tar", [("0.jpg", jpeg()), ("0.txt", b"one")])
    kinds = {
        "txt": "a folder of images with .txt files",
        "jsonl": "a folder with metadata.jsonl",
        "tars": "a folder of .tar files",
    }
    for name, kind in kinds.items():
        with pytest.raises(DataError) as refused:
            open_source(tmp_path / name, split="val")
        assert str(refused.value) == (
            f"{tmp_path / name} is {kind} without splits, so --split val cannot be read: leave --split out to read all "
            "of it, or give the folder of the split"
        )
        for source in (open_source(tmp_path / name), open_source(tmp_path / name, split="train")):
            assert [captions for _, _, captions in listed(source)] == [("one",)]


def test_a_split_of_a_single_file_is_a_note(tmp_path):
    metadata_folder(tmp_path / "x", "one")
    file = tmp_path / "x" / "metadata.jsonl"
    assert not open_source(file).notes
    source = open_source(file, split="val")
    assert source.notes == ["metadata.jsonl is a single file: --split val is ignored and all of it is read"]
    assert listed(source) == [(0, "a.jpg", ("one",))]


def test_hidden_files_and_folders_named_like_files_are_passed_over(tmp_path):
    make_tar(tmp_path / "0.tar", [("0.jpg", jpeg()), ("0.txt", b"one")])
    (tmp_path / "._0.tar").write_bytes(b"macOS")
    (tmp_path / "folder.tar").mkdir()
    source = open_source(tmp_path)
    assert source.description["files"] == ["0.tar"]
    assert listed(source) == [(0, "0", ("one",))]


def test_other_files_are_refused(tmp_path):
    for name, advice in (("a.zip", ""), ("a.pth", "; 'talk2dino store convert' reads published feature files")):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(DataError) as refused:
            open_source(tmp_path / name)
        assert str(refused.value) == (
            f"{tmp_path / name} is not a caption source: expected .json, .jsonl, .csv, .tar, .parquet or a folder{advice}"
        )


def test_images_without_any_text_file_are_no_source(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    with pytest.raises(DataError, match="holds no captions: looked for"):
        open_source(tmp_path)
    (tmp_path / "a.jpg").rename(tmp_path / "a.txt")
    with pytest.raises(DataError, match="holds no captions: looked for"):
        open_source(tmp_path)


def test_several_paths_are_one_source(tmp_path):
    for name in ("x", "y"):
        metadata_folder(tmp_path / name, name)
    one, two = tmp_path / "x", tmp_path / "y"
    assert listed(open_sources([one, two])) == [(0, "a.jpg", ("x",)), (1, "a.jpg", ("y",))]
    assert listed(open_sources([one, two], limit=1)) == [(0, "a.jpg", ("x",))]
    assert open_sources([one]).description == open_source(one).description


def test_a_split_of_another_name(tmp_path):
    for name in ("x-train-0", "x-minival-0"):
        make_tar(tmp_path / f"{name}.tar", [("0.jpg", jpeg()), ("0.txt", name.encode())])
    assert listed(open_source(tmp_path, split="minival")) == [(0, "0", ("x-minival-0",))]
    assert listed(open_source(tmp_path)) == [(0, "0", ("x-train-0",))]
    with pytest.raises(DataError, match="holds the splits train, not other: choose one with --split"):
        open_source(tmp_path, split="other")
