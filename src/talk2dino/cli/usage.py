"""Mistakes in the call itself: exit code 2, with the usage line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from talk2dino.errors import InputError


@contextmanager
def usage(hint: str | None = None) -> Iterator[None]:
    """Errors of reading options and names become usage errors; nothing has been loaded yet."""
    try:
        yield
    except InputError as error:
        raise typer.BadParameter(str(error), param_hint=hint) from None


def split_names(given: list[str] | str | None) -> list[str]:
    """["voc21,ade20k", "world"] to ["voc21", "ade20k", "world"], each once."""
    several = given if isinstance(given, list) else [given] if given else []
    return list(dict.fromkeys(name.strip() for one in several for name in str(one).split(",") if name.strip()))
