"""Result lines on standard output: never lost in silence, never a traceback.

Python itself prints nothing when standard output is closed, fails for characters that the output's encoding lacks, and
reports a full disk as an exception at exit. The functions here raise one error for the first and the last, and escape
the characters.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

from talk2dino.errors import OutputError
from talk2dino.io.atomic import writing_failed
from talk2dino.io.names import SURROGATE, readable


def print_result(text: str) -> None:
    """Write one line to standard output and flush it; characters that its encoding lacks are escaped.

    Raises:
        OutputError: standard output is closed, or cannot be written (disk full).
        BrokenPipeError: the reader has gone (``| head``); not an error of this program.
    """
    stream = sys.stdout
    if stream is None or stream.closed:
        raise OutputError("standard output is closed, so results cannot be printed; redirect it to a file or a pipe")
    encoding = getattr(stream, "encoding", None) or "utf-8"
    line = readable(text).encode(encoding, "backslashreplace").decode(encoding) + "\n"
    try:
        stream.write(line)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_rest()
        raise writing_failed("standard output", error) from error


def print_json(value: Any) -> None:
    """Write a value as one line of JSON that any encoding can hold and that reads back unchanged.

    File names that are not UTF-8 keep their bytes as ``\\udcXX`` escapes, as :func:`os.fsdecode` represents them.

    Raises:
        OutputError, BrokenPipeError: as :func:`print_result`.
    """
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("_", "-")
    text = json.dumps(value, ensure_ascii=encoding not in ("utf-8", "utf8"), default=str)
    print_result(SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def _discard_rest() -> None:
    """Send what is still buffered to the null device, so that the interpreter does not fail again when it exits."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
