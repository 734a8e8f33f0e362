"""Files, folders and patterns become an ordered list of pictures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from talk2dino.errors import ImageError
from talk2dino.io.find import STDIN, find_images, search_images


@pytest.fixture
def folder(tmp_path):
    here = ("shot10.png", "shot2.PNG", "Shot1.jpg", "notes.txt", ".hidden.png")
    for name in (*here, "sub/天空 🐈.webp", "sub/deep/x.gif"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def names(paths):
    return [path.name for path in paths]


def test_a_folder_in_natural_order_without_hidden_and_foreign_files(folder):
    assert names(find_images([folder])) == ["Shot1.jpg", "shot2.PNG", "shot10.png"]


def test_recursion_only_when_asked(folder):
    found = names(find_images([folder], recursive=True))
    assert found == ["Shot1.jpg", "shot2.PNG", "shot10.png", "x.gif", "天空 🐈.webp"]


def test_what_was_passed_over_is_counted(folder):
    found = search_images([folder])
    assert found.note == "passed over 1 other file, 1 hidden entry, 1 subfolder (--recursive searches subfolders)"
    (folder / "sub" / "._x.jpg").write_bytes(b"")
    found = search_images([folder], recursive=True)
    assert found.note == "passed over 1 other file, 2 hidden entries"
    assert search_images([folder / "shot2.PNG"]).note == ""


@pytest.mark.skipif(os.name != "posix", reason="needs pipes and names that are not UTF-8")
def test_pipes_are_passed_over_and_any_name_is_found(folder):
    os.mkfifo(folder / "pipe.jpg")
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg"))
    odd.write_bytes(b"")
    found = search_images([folder])
    assert odd in found.paths
    assert folder / "pipe.jpg" not in found.paths
    assert found.note.startswith("passed over 2 other files")
    with pytest.raises(ImageError, match=r"no such file: .*caf\\xe8\.jpg; did you mean caf\\xe9\.jpg\?"):
        find_images([os.fsdecode(os.fsencode(folder) + b"/caf\xe8.jpg")])


def test_a_link_to_a_folder_above_does_not_recurse_for_ever(folder):
    (folder / "sub" / "up").symlink_to(folder)
    assert len(find_images([folder], recursive=True)) == 5


def test_standard_input_is_not_looked_for_on_disk(folder):
    assert find_images(["-", folder / "shot2.PNG"]) == [STDIN, folder / "shot2.PNG"]


def test_patterns(folder):
    assert names(find_images([f"{folder}/shot*"])) == ["shot2.PNG", "shot10.png"]
    assert names(find_images([f"{folder}/**/*.gif"])) == ["x.gif"]
    with pytest.raises(ImageError, match=r"no images match the pattern .*\*\.tiff"):
        find_images([f"{folder}/*.tiff"])


def test_each_file_once_in_the_order_of_the_inputs(folder):
    inputs = [folder / "shot10.png", folder, f"{folder}/sub/../shot10.png"]
    assert names(find_images(inputs)) == ["shot10.png", "Shot1.jpg", "shot2.PNG"]


def test_a_file_is_taken_whatever_its_ending_and_brackets_are_no_pattern(folder):
    odd = folder / "odd[1].dat"
    odd.write_bytes(b"")
    assert find_images([odd, str(folder / "notes.txt")]) == [odd, folder / "notes.txt"]


def test_near_names_are_suggested(folder):
    with pytest.raises(ImageError, match=r"no such file: .*shot3\.png; did you mean .*shot2\.PNG"):
        find_images([folder / "shot3.png"])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("nowhere/x.png", r"the folder .*nowhere does not exist"),
        ("https://example.org/x.png", "is a URL"),
        ("bad\0name.png", "no such file"),
        ("x" * 5000, "no such file"),
    ],
)
def test_what_is_not_there(given, says):
    with pytest.raises(ImageError, match=says):
        find_images([given])


def test_a_folder_without_pictures_and_no_input(folder):
    (folder / "empty").mkdir()
    with pytest.raises(ImageError, match=r"no images in the folder .*empty"):
        find_images([folder, folder / "empty"])
    with pytest.raises(ImageError, match="no images given"):
        find_images([])
