"""Which inputs are videos."""

from __future__ import annotations

from pathlib import Path

import pytest

from talk2dino.errors import ImageError
from talk2dino.io.find import search_images
from talk2dino.video.find import is_video, split_videos


@pytest.fixture
def folder(tmp_path):
    for name in ("a.mp4", "b.MKV", "c.png", "d.gif"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_files_and_patterns(folder):
    videos, others = split_videos([str(folder / "a.mp4"), str(folder / "c.png"), str(folder / "d.gif"), "-"])
    assert [path.name for path in videos] == ["a.mp4"]
    assert [Path(name).name for name in others] == ["c.png", "d.gif", "-"]
    videos, others = split_videos([str(folder / "*.mp4"), str(folder / "a.mp4")])
    assert ([path.name for path in videos], others) == (["a.mp4"], [])
    videos, others = split_videos([str(folder / "*")])
    assert ([path.name for path in videos], others) == (["a.mp4", "b.MKV"], [str(folder / "*")])


def test_folders_and_animations_are_videos_when_asked(folder):
    assert split_videos([str(folder)]) == ([], [str(folder)])
    videos, others = split_videos([str(folder), str(folder / "d.gif")], as_video=True)
    assert (videos, others) == ([folder, folder / "d.gif"], [])


@pytest.mark.parametrize(
    ("start", "video"),
    [
        (b"\0\0\0\x20ftypisom", True),
        (b"\x1aE\xdf\xa3\0\0\0\0", True),
        (b"RIFF\0\0\0\0AVI LIST", True),
        (b"\0\0\0\x20ftypheic", False),
        (b"\0\0\0\x20ftypavif", False),
        (b"RIFF\0\0\0\0WEBPVP8", False),
    ],
)
def test_by_the_first_bytes(tmp_path, start, video):
    (tmp_path / "clip").write_bytes(start)
    assert is_video(tmp_path / "clip") is video


def test_a_folder_of_videos_says_how_to_name_them(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(ImageError, match=r"1 video.*'.*\*\.mp4'"):
        search_images([tmp_path])
