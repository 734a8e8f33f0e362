import json

import pytest
from caption_files import coco_file, jpeg, listed, make_tar, metadata_folder

from talk2dino.captions import open_source
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
    assert listed(open_source(tmp_path)) == [(0, "1", ("2014",))]  # there are no pictures of the other year
    (tmp_path / "train2017").mkdir()
    with pytest.raises(
        DataError,
        match=r"2014.json and captions_train2017.json: choose one with --split train2014 or --split train2017",
    ):
        open_source(tmp_path)
    assert listed(open_source(tmp_path, split="train2017")) == [(0, "1", ("2017",))]
