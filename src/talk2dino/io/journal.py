"""An append-only journal of JSON lines: the record of finished work for everything that can be resumed.

A record is written with one system call, so a killed run loses at most the record it was writing, and threads do not mix
their lines. Opening the journal again cuts off an unfinished last line.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from talk2dino.errors import DataError
from talk2dino.io.atomic import write_atomically, writing_failed
from talk2dino.io.names import readable

Record = dict[str, Any]


class Journal:
    """The records of a run, in the order in which they were added.

    Args:
        path: the file; it and its folder are created when the first record is added.
        sync: wait until each record is on the disk (``fsync``), for work that takes long.
        damaged: ``"refuse"`` raises an error for a line that is not a JSON object, ``"skip"`` leaves it out.
        length: bytes to keep of an earlier run; the rest is cut off. None keeps everything.

    Raises:
        DataError: a damaged line, with its number. OutputError: the file cannot be written.
    """

    def __init__(
        self, path: str | Path, *, sync: bool = True, damaged: str = "refuse", length: int | None = None
    ) -> None:
        self.path, self.sync = Path(path), sync
        self.records = read_journal(self.path, damaged=damaged, length=length)
        whole = len(_whole_lines(self.path, length))
        try:
            if self.size() > whole:
                os.truncate(self.path, whole)
        except OSError as error:
            raise writing_failed(self.path, error) from error

    def add(self, record: Record) -> None:
        """Append one record.

        Raises:
            OutputError: the file cannot be written, for example because the disk is full.
        """
        line = _line(record)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                before = os.fstat(descriptor).st_size
                if os.write(descriptor, line) < len(line):  # the disk became full in the middle of the line
                    os.ftruncate(descriptor, before)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if self.sync:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise writing_failed(self.path, error) from error
        self.records.append(record)

    def keep(self, wanted: Callable[[Record], bool]) -> None:
        """Drop the records that are not wanted; the file is replaced as a whole."""
        kept = [record for record in self.records if wanted(record)]
        if len(kept) < len(self.records):
            write_journal(self.path, kept)
            self.records = kept

    def size(self) -> int:
        """Bytes written so far; ``length`` of a later run that resumes from here."""
        return self.path.stat().st_size if self.path.exists() else 0


def read_journal(path: str | Path, *, damaged: str = "refuse", length: int | None = None) -> list[Record]:
    """Read the whole lines of a journal, without changing it; an unfinished last line is left out.

    Raises:
        DataError: a damaged line (``damaged="refuse"``), or the file cannot be read.
    """
    records = []
    for number, line in enumerate(_whole_lines(Path(path), length).splitlines(), start=1):
        try:
            record = json.loads(line.decode("utf-8", "replace"))
            if not isinstance(record, dict):
                raise ValueError(f"a {type(record).__name__} instead of an object")
        except (ValueError, RecursionError):
            if damaged == "skip":
                continue
            raise DataError(
                f"{readable(path)}, line {number} is damaged: remove that line to repeat its work"
            ) from None
        records.append(record)
    return records


def write_journal(path: str | Path, records: Iterable[Record]) -> Path:
    """Write a whole journal at once, or nothing."""
    return write_atomically(path, b"".join(map(_line, records)))


def _whole_lines(path: Path, length: int | None) -> bytes:
    try:
        content = path.read_bytes()[:length]
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise DataError(f"cannot read {readable(path)}: {error.strerror}") from None
    return content[: content.rfind(b"\n") + 1]


def _line(record: Record) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
