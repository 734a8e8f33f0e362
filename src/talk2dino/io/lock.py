"""One run at a time in a folder: a lock that ends with its process, however the process ends."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from talk2dino.errors import OutputError
from talk2dino.io.names import readable

NAME = ".lock"


@contextlib.contextmanager
def folder_lock(folder: Path, name: str = NAME, *, wait: float = 0.0) -> Iterator[None]:
    """Hold ``folder`` for this process; its file ``.lock`` names the process. At the end the file is removed, and a folder
    that was created for the lock and is empty.

    The system releases the lock of a killed run. Where there are no locks (Windows, some network file systems), none is held.

    Args:
        name: the file, another one for each part of a folder that several runs may fill side by side.
        wait: seconds to wait for a run that holds the lock.

    Raises:
        OutputError: another run holds the folder (the message says which), or it cannot be written.
    """
    path, made = folder / name, not folder.exists()
    deadline = time.monotonic() + wait
    while True:
        try:
            file = _take(folder, path)
            break
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise OutputError(
                    f"another run is writing to {readable(folder)} ({error}): wait for it, end it, or choose another folder "
                    "with --out"
                ) from None
            time.sleep(0.02)
    if file is None:
        yield
        return
    with file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
                if made:
                    folder.rmdir()  # fails, as it should, if the folder is not empty


def _take(folder: Path, path: Path) -> TextIO | None:
    """The locked file, or None where there are no locks; BlockingIOError with the holder's name if it is held."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (the error of opening it has its own message)
    except OSError as error:
        raise OutputError(
            f"cannot write to the folder {readable(folder)} ({error.strerror}): choose another with --out"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    except BlockingIOError:
        pass
    except OSError:  # no locks on this file system
        file.close()
        return None
    with file:  # held by another run, or removed by one that ended just now
        file.seek(0)
        raise BlockingIOError(file.read().strip() or "just started")
