"""One run at a time in a folder: a lock that ends with its process, however the process ends."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from talk2dino.errors import OutputError
from talk2dino.io.names import readable

NAME = ".lock"


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process; its file ``.lock`` names the process. At the end the file is removed, and a folder
    that was created for the lock and is empty.

    The system releases the lock of a killed run. Where there are no locks (Windows, some network file systems), none is held.

    Raises:
        OutputError: another run holds the folder (the message says which), or it cannot be written.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    path, made = folder / NAME, not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (the error of opening it has its own message)
    except OSError as error:
        raise OutputError(f"cannot create the folder {readable(folder)}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lost = not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat())
        except BlockingIOError:
            lost = True
        except OSError:  # no locks on this file system
            yield
            return
        if lost:  # held by another run, or removed by one that ended just now
            file.seek(0)
            raise OutputError(
                f"another run is writing to {readable(folder)} ({file.read().strip() or 'just started'}): wait for it, end it, or "
                "choose another folder with --out"
            )
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
