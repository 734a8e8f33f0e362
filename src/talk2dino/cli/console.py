"""Messages and warnings of the package on stderr, one line each."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import TextIO

from talk2dino.errors import Talk2DinoWarning


class _Lines(logging.Handler):
    """Log records as ``talk2dino: message``, written above a progress bar if one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno < logging.WARNING else f"{record.levelname}: "
        message(f"talk2dino: {level}{record.getMessage()}")


def message(text: str) -> None:
    """One line on stderr that does not disturb a progress bar."""
    if "tqdm" in sys.modules and sys.stderr.isatty():
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr, flush=True)


def show_messages() -> None:
    """Show what the package logs."""
    log = logging.getLogger("talk2dino")
    if not any(isinstance(handler, _Lines) for handler in log.handlers):
        log.addHandler(_Lines())
    log.setLevel(logging.INFO)
    log.propagate = False


def show_warnings() -> None:
    """Show this package's warnings as one line, without the source's path and line."""
    warnings.simplefilter("always", Talk2DinoWarning)
    original, write_line = warnings.showwarning, message

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
        line: str | None = None,
    ) -> None:  # fmt: skip
        if issubclass(category, Talk2DinoWarning):
            write_line(f"talk2dino: WARNING: {message}")
        else:
            original(message, category, filename, lineno, file, line)

    warnings.showwarning = show
