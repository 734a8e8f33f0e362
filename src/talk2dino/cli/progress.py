"""Progress on stderr: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


class ProgressBar:
    """Shows what a long function reports to its ``progress=`` argument (:class:`talk2dino.progress.ProgressCallback`).

    The first report sets the starting point: items that earlier runs finished count neither for the rate nor for the
    remaining time.

    Args:
        label: what is being done.
        unit: what is counted, in the singular.
        every: seconds between two lines where stderr is not a terminal.
    """

    def __init__(self, label: str, unit: str = "image", *, every: float = 15.0) -> None:
        self.label, self.unit, self.every = label, unit, every
        self.before: int | None = None
        self.started = self.last = time.monotonic()
        self._bar: tqdm[Any] | None = None

    def __call__(self, done: int, total: int, note: str = "") -> None:
        if self.before is None:
            self.before = 0 if done <= 1 else done
            if sys.stderr.isatty():
                from tqdm import tqdm

                self._bar = tqdm(
                    total=total,
                    initial=self.before,
                    desc=self.label,
                    unit=self.unit,
                    file=sys.stderr,
                    dynamic_ncols=True,
                )
        if self._bar is not None:
            self._bar.total = total
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            self._print(done, total, note)

    def _print(self, done: int, total: int, note: str) -> None:
        rate = (done - (self.before or 0)) / max(1e-9, time.monotonic() - self.started)
        left = f", {rate:.2f} per second, {(total - done) / rate:.0f} s left" if rate > 0 else ""
        noun = self.unit if total == 1 else f"{self.unit}s"
        print(f"{self.label}: {done} of {total} {noun}{left}{f', {note}' if note else ''}", file=sys.stderr, flush=True)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
