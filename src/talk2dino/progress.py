"""Progress of long work: the callback that functions report to, and a warning for work that is unexpectedly slow."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Protocol


class ProgressCallback(Protocol):
    """What every long function takes as ``progress=``: called after each finished batch.

    A function that resumes an earlier run also calls it once before it begins, with what is finished already.

    Args:
        done: items finished so far, those of earlier runs included.
        total: items in all.
        note: a short figure to show beside the count, such as ``"mIoU 77.61"``.
    """

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


@contextlib.contextmanager
def warn_when_slow(log: logging.Logger, message: Callable[[], str | None], after: float = 2.0) -> Iterator[None]:
    """Log a warning if the block takes longer than ``after`` seconds.

    Args:
        message: called once the time is up; returns the text, or None to stay silent.
    """

    def warn() -> None:
        text = message()
        if text:
            log.warning("%s", text)

    timer = threading.Timer(after, warn)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
