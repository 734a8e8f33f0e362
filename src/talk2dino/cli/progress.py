"""Progress on stderr: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """Counts finished items; shows rate and remaining time."""

    def __init__(self, total: int, label: str, unit: str, every: float = 15.0) -> None:
        self.total, self.label, self.unit, self.every = total, label, unit, every
        self.done = self.before = 0
        self.begun, self.note = False, ""
        self.started = self.told = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=label, unit=unit, file=sys.stderr, dynamic_ncols=True)

    def reached(self, done: int, total: int, before: int) -> None:
        """Where a run stands that began with ``before`` items of earlier runs, which no rate or remaining time counts."""
        first, self.total, self.before = self.before != before, total, before
        if first:
            self.done = before
        if self._bar is not None:
            self._bar.total = total
            if first:
                self._bar.initial = self._bar.n = before
        self.advance(done - self.done)

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """As a ProgressCallback; items that are done at the first call are those of earlier runs."""
        first, self.begun = not self.begun, True
        if note:
            self.note = f", {note}"
            if self._bar is not None:
                self._bar.set_postfix_str(note, refresh=False)
        self.reached(done, total, done if first else self.before)

    def advance(self, count: int = 1) -> None:
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self.told >= self.every:
            self.told = time.monotonic()
            self._tell()

    def message(self, text: str) -> None:
        """A line that does not disturb the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def _tell(self) -> None:
        rate = (self.done - self.before) / max(1e-9, time.monotonic() - self.started)
        left = f"{(self.total - self.done) / rate:.0f} s left" if rate else "nothing done yet"
        print(
            f"{self.label}: {self.done} of {self.total} {self.unit}s, {rate:.2f} a second, {left}{self.note}",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


@contextmanager
def progress(total: int, label: str, unit: str = "picture") -> Iterator[Progress]:
    shown = Progress(total, label, unit)
    try:
        yield shown
    finally:
        shown.close()
