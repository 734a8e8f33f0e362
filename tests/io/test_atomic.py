"""A file is written whole or not at all, and a refusal says what to do."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from talk2dino.errors import OutputError
from talk2dino.io.atomic import atomic_path, remove_leftovers, save_png, write_atomically, writing_failed


def test_text_and_bytes_arrive_and_missing_folders_are_made(tmp_path):
    assert write_atomically(tmp_path / "a" / "b" / "t.txt", "天空\n").read_bytes() == "天空\n".encode()
    assert write_atomically(tmp_path / "t.bin", b"\x00\xff").read_bytes() == b"\x00\xff"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "t.bin"]


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_what_was_there_stays_when_the_block_raises(tmp_path, error):
    target = write_atomically(tmp_path / "kept.txt", "before")

    def fail():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.txt"]
    assert target.read_text() == "before"


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "disk is full"), (errno.EACCES, "permission denied"), (errno.EROFS, "read-only")],
)
def test_the_operating_systems_refusal_becomes_a_sentence(tmp_path, number, advice):
    target = tmp_path / "out.png"

    def fill():
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"half")
            raise OSError(number, os.strerror(number))

    with pytest.raises(OutputError, match=advice) as caught:
        fill()
    assert str(target) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="file"):
        write_atomically(tmp_path / "file" / "out.png", b"")
    with pytest.raises(OutputError, match="folder has that name"):
        write_atomically(tmp_path, b"")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(OutputError, match="permission denied"):
            write_atomically(tmp_path / "out.png", b"")
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_a_pipe_is_not_replaced(tmp_path):
    """Stands for devices too; a test that went wrong must not take the machine's /dev/null with it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="pipe"):
        write_atomically(pipe, b"x")
    assert pipe.is_fifo()


def test_a_link_stays_a_link(tmp_path):
    real = write_atomically(tmp_path / "real.txt", "old")
    link = tmp_path / "link.txt"
    link.symlink_to(real)
    write_atomically(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_an_error_about_another_file_keeps_its_kind(tmp_path):
    def read_elsewhere():
        with atomic_path(tmp_path / "out.png"):
            (tmp_path / "elsewhere" / "in.png").read_bytes()

    with pytest.raises(FileNotFoundError) as caught:
        read_elsewhere()
    assert not isinstance(caught.value, OutputError)


def test_the_longest_names_and_the_ending_for_writers(tmp_path):
    target = tmp_path / ("图" * 83 + ".png")  # 253 bytes
    with atomic_path(target) as temporary:
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"x")
    assert target.read_bytes() == b"x"
    with pytest.raises(OutputError, match="too long"):
        write_atomically(tmp_path / ("图" * 90 + ".png"), b"x")


def test_temporary_names_fit_where_the_name_does(tmp_path):
    with atomic_path(tmp_path / ("a" * 251 + ".png")) as temporary:
        assert len(temporary.name) == 255
        temporary.write_bytes(b"x")
    strange = tmp_path / os.fsdecode(b"caf\xe9.png")
    write_atomically(strange, b"y")
    assert strange.read_bytes() == b"y"
    assert len(list(tmp_path.iterdir())) == 2


def test_which_errors_are_about_the_file(tmp_path):
    """Those about the file, its folders and its temporary name; a decoder's OSError has no number and keeps its kind."""
    target = tmp_path / "folder" / "out.png"

    def fail(error):
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"half")
            if error.filename == "TEMPORARY":
                error.filename = os.fsencode(temporary)
            raise error

    ours = [
        OSError(errno.EACCES, "no", "TEMPORARY"), OSError(errno.EACCES, "no", str(target)),
        OSError(errno.EACCES, "no", str(tmp_path)), OSError(errno.EACCES, "no", 5), OSError(errno.EACCES, "no"),
    ]  # fmt: skip
    for error in ours:
        with pytest.raises(OutputError, match=r"folder/out\.png: permission denied; choose a folder"):
            fail(error)
    for error in (OSError("cannot identify image file"), OSError(errno.EACCES, "no", str(tmp_path / "other"))):
        with pytest.raises(OSError, match=r"cannot identify|no") as caught:
            fail(error)
        assert caught.value is error
    assert list((tmp_path / "folder").iterdir()) == []


def test_compression_of_a_png(tmp_path):
    image = Image.fromarray((np.arange(97 * 89) % 251).astype(np.uint8).reshape(97, 89))
    sizes = [save_png(image, tmp_path / "a" / "x.png", compress_level=level).stat().st_size for level in (0, 9)]
    assert sizes[0] > 97 * 89 > sizes[1]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a" / "x.png")), np.asarray(image))


def test_what_a_killed_run_left_is_removed_and_nothing_else(tmp_path):
    with atomic_path(tmp_path / "a.npz") as temporary:
        temporary.write_text("x")
        kept_by_a_kill = temporary.name
    (tmp_path / "a.npz").unlink()
    left = [kept_by_a_kill, ".meta.0123abcd.tmp", ".two\nlines.0123abcd.tmp.png"]
    others = [".a.tmp", ".a.0123abcd.tmp.b.c", "a.0123abcd.tmp", ".a.0123abcg.tmp"]
    for name in left + others:
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_a_librarys_words_for_a_full_disk():
    error = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert str(writing_failed(Path("x.bin"), error)) == (
        "cannot write x.bin: the disk is full; free some space or choose another folder"
    )
    found = writing_failed(Path("x.bin"), OSError(errno.EIO, "in the system's words"))
    assert str(found) == "cannot write x.bin: input/output error"
    assert str(writing_failed(Path("x.bin"), RuntimeError("odd\nthing"))) == "cannot write x.bin: odd thing"


def test_recent_leftovers_stay_where_others_may_write(tmp_path):
    import os
    import time

    old, new = tmp_path / ".a.png.0123abcd.tmp.png", tmp_path / ".b.png.0123abcd.tmp.png"
    for path in (old, new):
        path.write_bytes(b"")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    remove_leftovers(tmp_path, older=3600)
    assert [path.name for path in tmp_path.iterdir()] == [new.name]
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []
