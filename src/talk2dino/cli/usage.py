"""Mistakes in the call itself: exit code 2, with the usage line, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from talk2dino.errors import InputError


@contextmanager
def usage(hint: str | None = None) -> Iterator[None]:
    """Errors of reading options and names become usage errors."""
    try:
        yield
    except InputError as error:
        raise typer.BadParameter(str(error), param_hint=hint) from None


def one_of_two(first: object, second: object, message: str) -> None:
    """Refuse a call that gives both or neither of two options."""
    if (first is None) == (second is None):
        raise typer.BadParameter(message)


def split_names(given: list[str] | str | None) -> list[str]:
    """["voc21,ade20k", "world"] to ["voc21", "ade20k", "world"], each once."""
    several = given if isinstance(given, list) else [given] if given else []
    return list(dict.fromkeys(name.strip() for one in several for name in str(one).split(",") if name.strip()))


def method_options(given: list[str] | None, **named: object) -> dict[str, object]:
    """["segments=4", "variant=patches"] to {"segments": 4, "variant": "patches"}; values are read as YAML.

    Args:
        named: options that have a flag of their own; those that are None are left out.
    """
    from talk2dino.io.settings import parse_values

    with usage("--option"):
        found = parse_values(given or [])
    return found | {name: str(value) for name, value in named.items() if value is not None}
