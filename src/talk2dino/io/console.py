"""Result lines on standard output. Where Python prints nothing (closed), or fails at exit (disk full), they raise an error."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

from talk2dino.errors import OutputError
from talk2dino.io.atomic import writing_failed
from talk2dino.io.names import SURROGATE


def print_json(value: Any) -> None:
    """Write a value as one line of JSON that any encoding can hold and that reads back unchanged.

    File names that are not UTF-8 keep their bytes as ``\\udcXX`` escapes, as :func:`os.fsdecode` represents them.

    Raises:
        OutputError: standard output is closed, or cannot be written (disk full).
        BrokenPipeError: the reader has gone (``| head``); not an error of this program.
    """
    stream = sys.stdout
    if stream is None or stream.closed:
        raise OutputError("standard output is closed, so results cannot be printed; redirect it to a file or a pipe")
    encoding = (getattr(stream, "encoding", None) or "utf-8").lower().replace("_", "-")
    text = json.dumps(value, ensure_ascii=encoding not in ("utf-8", "utf8"), default=str)
    try:
        stream.write(SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        with contextlib.suppress(
            OSError, ValueError
        ):  # the interpreter shall not fail again with the rest when it exits
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
        raise writing_failed("standard output", error) from error
