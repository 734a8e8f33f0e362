import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from talk2dino.errors import OutputError
from talk2dino.io.lock import folder_lock

HOLD = "import sys, time; from talk2dino.io.lock import folder_lock\n"
HOLD += "with folder_lock(__import__('pathlib').Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def test_one_run_at_a_time_and_a_killed_one_is_no_obstacle(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            with (
                pytest.raises(OutputError, match=rf"another run is writing to .*out \(process {other.pid} on .*--out"),
                folder_lock(tmp_path / "out"),
            ):
                pass
        finally:
            os.kill(other.pid, signal.SIGKILL)
    assert (tmp_path / "out" / ".lock").exists()
    with folder_lock(tmp_path / "out"):
        assert (tmp_path / "out" / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    assert not (tmp_path / "out" / ".lock").exists()
    with folder_lock(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()  # made for the lock, and nothing was written


def test_waiting_for_another_run(tmp_path):
    """Threads have file descriptors of their own, so the lock keeps them apart as it does processes."""
    order = []

    def wait():
        with folder_lock(tmp_path, wait=30):
            order.append("second")

    waiting = threading.Thread(target=wait)
    with folder_lock(tmp_path), folder_lock(tmp_path, ".part-2.lock"):  # another part is free
        waiting.start()
        time.sleep(0.1)
        with pytest.raises(OutputError, match=rf"another run is writing .*process {os.getpid()} on"):
            folder_lock(tmp_path, wait=0.05).__enter__()
        order.append("first")
    waiting.join(30)
    assert order == ["first", "second"]
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_its_holder_removed_counts_for_nothing(tmp_path, monkeypatch):
    """A run that ends between another's opening and locking the file: the other has locked a file that is gone."""
    real, opened = fcntl.flock, []

    def late(file, how):
        real(file, how)
        opened.append(file)
        if len(opened) == 1:
            (tmp_path / ".lock").unlink()
        elif len(opened) == 2:
            (tmp_path / ".lock").unlink()
            (tmp_path / ".lock").touch()  # by a third run

    monkeypatch.setattr(fcntl, "flock", late)
    with folder_lock(tmp_path, wait=10):
        assert len(opened) == 3
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()}")
    monkeypatch.undo()


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with folder_lock(tmp_path), folder_lock(tmp_path):
        pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write to the folder"), folder_lock(tmp_path / "file" / "out"):
        pass
