"""One family of errors. Each message says what came, what is accepted, and what to do.

Every error that a caller can cause is a :class:`Talk2DinoError`; the command line turns it into one sentence and a
non-zero exit. Those that also are a ``ValueError`` (or another built-in) can be caught as such.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Talk2DinoError(Exception):
    """Base of all errors that this package raises on purpose."""


class Talk2DinoWarning(UserWarning):
    """Base of this package's warnings: something works, but not as one may think."""


class InputError(Talk2DinoError, ValueError):
    """An argument is of the wrong kind, out of range or empty."""


class ShapeError(InputError):
    """A tensor or array does not have the shape that a function asks for."""


class PromptError(InputError):
    """A list of prompts is empty, too long, or not text."""


class ImageError(Talk2DinoError, ValueError):
    """An image cannot be read, is damaged, or has a size that cannot be handled.

    Attributes:
        problem: the message without the advice at its end, which names options of the command line and of Python.
    """

    def __init__(self, problem: str = "", advice: str = "") -> None:
        super().__init__(f"{problem}; {advice}" if advice else problem)
        self.problem = problem


class ImageFormatError(ImageError):
    """A file is not an image, or not one of a format that can be read."""


class ImageSizeError(ImageError):
    """An image has more pixels than the limit."""


class CheckpointError(Talk2DinoError, ValueError):
    """A weights file is damaged, foreign, or does not fit the model."""


class ModelNotFoundError(Talk2DinoError, LookupError):
    """No model of that name, folder or hub repository, or it cannot be reached."""


class OutputError(Talk2DinoError, OSError):
    """A result cannot be written: folder not writable, disk full."""


class DataError(Talk2DinoError, ValueError):
    """A data set, caption source or feature store is incomplete, damaged or does not match."""


class MissingExtraError(Talk2DinoError, ImportError):
    """An optional dependency is not installed."""

    @classmethod
    def of(cls, package: str, extra: str, purpose: str) -> MissingExtraError:
        return cls(f"{purpose} needs the package '{package}', which is not installed: pip install 'talk2dino[{extra}]'")


def suggestion(given: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """``"; did you mean vitb or vitl?"`` for a name that is not among ``known``; empty when nothing is near."""
    near = {name.lower(): name for name in known}
    found = difflib.get_close_matches(given.lower(), near, n=3, cutoff=cutoff)
    return f"; did you mean {' or '.join(near[name] for name in found)}?" if found else ""
