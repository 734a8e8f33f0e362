import json
import os
from pathlib import Path

import pytest
from caption_files import jpeg, listed

from talk2dino.captions import Skipped, open_source
from talk2dino.errors import DataError


def test_text_files(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.jpg", "a.PNG", "deep/c.jpg", "d.jpg"):
        (tmp_path / name).write_bytes(jpeg())
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "deep" / "c.txt").write_text("三")
    assert listed(open_source(tmp_path)) == [
        (0, "a.PNG", ("one", "two")),
        (1, "b.jpg", "its captions are not UTF-8"),
        (2, "d.jpg", "no .txt file of the same name"),
        (3, "deep/c.jpg", ("三",)),
    ]


def test_file_names_that_are_not_utf8(tmp_path):
    """Such a file is read like any other; keys, folders and the manifest's description are printable."""
    folder = os.fsencode(tmp_path / "caf") + b"\xe9"
    try:
        os.mkdir(folder)
        Path(os.fsdecode(folder + b"/b\xff.jpg")).write_bytes(b"image")
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    Path(os.fsdecode(folder + b"/b\xff.txt")).write_text("one")
    Path(os.fsdecode(folder + b"/c\xff.jpg")).write_bytes(b"no captions")
    source = open_source(os.fsdecode(folder))
    json.dumps(source.description, ensure_ascii=False).encode("utf-8")
    assert source.description["folder"] == "caf\\udce9"
    (_, record), (_, without) = source.records()
    assert (record.key, record.captions, record.read()) == ("b\\udcff.jpg", ("one",), b"image")
    assert without == Skipped("c\\udcff.jpg", "no .txt file of the same name")


def test_hidden_images_are_left_out(tmp_path):
    for name in ("a.jpg", "._a.jpg"):
        (tmp_path / name).write_bytes(b"image")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "._a.txt").write_text("not a caption")
    assert listed(open_source(tmp_path)) == [(0, "a.jpg", ("one",))]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.timeout(20)
def test_named_pipes_do_not_hang(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"image")
    os.mkfifo(tmp_path / "b.txt")
    (_, record), (_, skipped) = open_source(tmp_path).records()
    with pytest.raises(DataError, match=r"a\.jpg is not a regular file"):
        record.read()
    assert skipped == Skipped("b.jpg", "its captions cannot be read: b.txt is not a regular file")
