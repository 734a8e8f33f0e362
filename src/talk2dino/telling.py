"""A word to someone who waits."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def say_when_slow(log: logging.Logger, message: Callable[[], str | None], after: float = 2.0) -> Iterator[None]:
    """Warn while the block is still at work ``after`` seconds on; ``message`` is asked then and may have nothing to say."""

    def say() -> None:
        text = message()
        if text:
            log.warning("%s", text)

    timer = threading.Timer(after, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
