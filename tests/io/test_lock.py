import os
import signal
import subprocess
import sys

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


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write to the folder"), folder_lock(tmp_path / "file" / "out"):
        pass
