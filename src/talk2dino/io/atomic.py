"""Write files whole or not at all: first under a temporary name beside the target, then ``os.replace``."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from talk2dino.errors import OutputError
from talk2dino.io.names import readable

if TYPE_CHECKING:
    from PIL import Image

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "not permitted; choose a folder that you may write to",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOTDIR: "part of the path is a file, not a folder; choose another path",
    errno.EEXIST: "a file has the name of a folder that is needed; choose another path",
    errno.EISDIR: "a folder has that name; choose another name or remove the folder",
    errno.ENOENT: "the folder does not exist and could not be created; choose another path",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EFBIG: "the file would be larger than is allowed here; choose another folder",
}
_LONGEST_NAME = 255  # bytes; file systems in common use


@contextlib.contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; when the block succeeds, the temporary file replaces ``target``.

    Missing parent folders are created. If the block raises (Ctrl-C included), the temporary file is removed and
    ``target`` stays as it was. The temporary name keeps the suffix of ``target``, for writers that choose the format by it.

    Raises:
        OutputError: the operating system refuses (disk full, no permission, a file in the place of a folder).
    """
    target = Path(os.path.realpath(target))  # a symbolic link stays; the file it points to is replaced
    temporary = _temporary(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        if target.exists() and not target.is_file():
            raise OutputError(
                f"cannot write {readable(target)}: it is a device or a pipe, not a file; choose another path"
            )
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        if isinstance(error, OutputError) or not _concerns(error, target, temporary):
            raise
        raise writing_failed(target, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_atomically(path: str | Path, content: bytes | str) -> Path:
    """Write bytes, or text as UTF-8, to ``path``, whole or not at all.

    Raises:
        OutputError: as :func:`atomic_path`.
    """
    path = Path(path)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def save_png(image: Image.Image, path: str | Path, *, compress_level: int = 6) -> Path:
    """Write an image as PNG, whole or not at all.

    Raises:
        OutputError: as :func:`atomic_path`.
    """
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=compress_level)
    return write_atomically(path, content.getvalue())


def remove_leftovers(folder: str | Path, *, older: float = 0) -> None:
    """Delete the temporary files that killed runs left in ``folder``, but not in its subfolders.

    The caller holds the folder's lock (:func:`talk2dino.io.lock.folder_lock`), so that no other run is writing them; where
    several may write, ``older`` is an age in seconds at which a file is no longer being written.
    """
    for path in Path(folder).glob(".*.tmp*"):
        if re.fullmatch(r"\..*\.[0-9a-f]{8}\.tmp(\.[^.]*)?", path.name, re.DOTALL):
            with contextlib.suppress(OSError):
                if not older or time.time() - path.stat().st_mtime > older:
                    path.unlink()


def writing_failed(target: str | Path, error: Exception) -> OutputError:
    """The error for a failed write, with advice; also finds the number in a library's text such as "(os error 28)"."""
    found = re.search(r"os error (\d+)", str(error))
    number = (error.errno if isinstance(error, OSError) else None) or (int(found[1]) if found else None)
    reason = os.strerror(number) if number else " ".join(str(error).split())
    advice = _ADVICE.get(number or 0, reason[:1].lower() + reason[1:])
    return OutputError(f"cannot write {readable(target)}: {advice}")


def _temporary(target: Path) -> Path:
    if not target.name:
        raise OutputError(f"cannot write {target}: it is a folder; add a file name")
    ending = f".{secrets.token_hex(4)}.tmp{target.suffix}"
    stem = target.name.encode("utf-8", "surrogateescape")[: _LONGEST_NAME - len(os.fsencode(ending)) - 1]
    return target.with_name("." + stem.decode("utf-8", "ignore") + ending)


def _concerns(error: OSError, target: Path, temporary: Path) -> bool:
    """Whether the error came from writing the target, not from reading another file inside the block."""
    if error.errno is None:  # raised by a decoder or the network, not by the operating system
        return False
    if error.filename is None:  # errors of an open file, such as a full disk, carry no name
        return True
    named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else target
    return named in (target, temporary) or named in target.parents
