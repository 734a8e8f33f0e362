"""Every kind of source is listed once, sorted, and in bounded memory."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from talk2dino.errors import DataError, InputError
from talk2dino.scale.listing import Entry, list_source, sort
from talk2dino.scale.reading import SourceReader


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (5, 3), (value, 0, 0)).save(file, "png")
    return file.getvalue()


def read(source: str) -> dict[str, bytes | str | None]:
    """Keys and contents of a source; the error where an image cannot be read."""
    found = SourceReader(source, ahead=2, threads=2).read_all(list_source(source))
    return {one.entry.key: one.error or one.content for one in found}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for name in ("b/2.png", "a.PNG", "b/10.png", ".hidden/x.png", "b/notes.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(len(name)))
    return folder


def test_a_folder_with_its_subfolders(images):
    assert [entry.key for entry in list_source(str(images))] == ["a.PNG", "b/10.png", "b/2.png"]
    assert read(str(images)) == {"a.PNG": png(5), "b/10.png": png(8), "b/2.png": png(7)}


def test_a_file_that_changed_after_it_was_listed_is_noticed(images):
    entries = list(list_source(str(images)))
    (images / "b/2.png").write_bytes(png(7) + b"more")
    (images / "b/10.png").unlink()
    found = {one.entry.key: one.error for one in SourceReader(str(images)).read_all(entries)}
    assert found["a.PNG"] is None
    assert "it changed" in found["b/2.png"]
    assert "no such file" in found["b/10.png"]


def test_tars_alone_and_in_a_folder(tmp_path):
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "one.tar", "w") as tar:
        for name, content in (("y.png", png(1)), ("y.txt", b"words"), ("d/x.png", png(2))):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert read(str(tmp_path / "tars")) == {"one.tar/d/x.png": png(2), "one.tar/y.png": png(1)}
    assert read(str(tmp_path / "tars" / "one.tar")) == {"one.tar/d/x.png": png(2), "one.tar/y.png": png(1)}
    content = (tmp_path / "tars" / "one.tar").read_bytes()
    (tmp_path / "tars" / "one.tar").write_bytes(content[:700])
    with pytest.raises(DataError, match=r"one.tar is truncated or damaged"):
        read(str(tmp_path / "tars"))


@pytest.mark.parametrize("struct", [False, True])
def test_parquet(tmp_path, struct):
    import pyarrow as pa
    import pyarrow.parquet as pq

    contents = [png(n) for n in range(7)]
    column = [{"bytes": c, "path": "p"} for c in contents] if struct else contents
    pq.write_table(pa.table({"image": column}), tmp_path / "t.parquet", row_group_size=3)
    assert read(str(tmp_path / "t.parquet")) == {f"t.parquet:{n:08d}": contents[n] for n in range(7)}
    pq.write_table(pa.table({"other": [1]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="has the columns other; expected one of image"):
        list(list_source(str(tmp_path / "t.parquet")))


def test_coco_and_lists_of_paths(images):
    (images / "coco.json").write_text(json.dumps({"images": [{"file_name": "b/2.png"}, {"file_name": "a.PNG"}]}))
    assert read(str(images / "coco.json")) == {"a.PNG": png(5), "b/2.png": png(7)}
    (images / "list.txt").write_text(f"b/10.png\n\nfile://{images}/a.PNG\n")
    assert read(str(images / "list.txt")) == {"b/10.png": png(8), f"file://{images}/a.PNG": png(5)}
    (images / "coco.json").write_text(json.dumps({"images": [{"id": 3}]}))
    with pytest.raises(DataError, match="an image without a file_name"):
        list(list_source(str(images / "coco.json")))


def test_what_cannot_be_listed(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "movie.mp4").write_bytes(b"x")
    (tmp_path / "twice.txt").write_text("a.png\nb.png\na.png\n")
    with pytest.raises(DataError, match="holds no images"):
        list(list_source(str(tmp_path / "empty")))
    with pytest.raises(DataError, match="there is no source at"):
        list(list_source(str(tmp_path / "missing")))
    with pytest.raises(InputError, match=r"movie.mp4 is no source of images: expected a folder, .tar"):
        list(list_source(str(tmp_path / "movie.mp4")))
    with pytest.raises(DataError, match=r"names a.png more than once"):
        list(list_source(str(tmp_path / "twice.txt")))
    with pytest.raises(InputError, match="names no known storage"):
        list(list_source("gopher://host/images"))


def test_sorting_piece_by_piece_gives_the_same_order():
    entries = [Entry(f"{n * 7919 % 101:03d}", "t.tar" if n % 2 else "", n if n % 2 else -1, n) for n in range(101)]
    assert list(sort(entries, in_memory=13)) == list(sort(entries)) == sorted(entries, key=lambda entry: entry.key)


@pytest.mark.parametrize(
    "entry", [Entry("a/ü 图.png", size=3), Entry("t.tar/a.png", "t.tar", 512, 9), Entry("x", "t.parquet", 4)]
)
def test_an_entry_survives_its_line(entry):
    assert Entry.of_line(entry.line()) == entry
