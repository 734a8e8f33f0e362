"""Methods by name: Talk2DINO and the systems it is compared with, all behind the same ``Segmenter``.

base.py          the contract: what a method brings
talk2dino.py     psi maps CLIP's words into DINO's space
clip_dense.py    CLIP alone: dense features of its last block
dino_clusters.py DINO alone: segments without words, matched to classes with the truth's help
freeda.py        DINO and CLIP with retrieved visual prototypes, no training (prototypes.py, prototype_build.py, attribution.py)

Other packages register a method with an entry point in the group ``talk2dino.methods``; see docs/methods.md.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from talk2dino.errors import InputError, suggestion

if TYPE_CHECKING:
    from talk2dino.methods.base import Facts, Method
    from talk2dino.towers import Towers

GROUP = "talk2dino.methods"

#: The methods in this package, imported when they are asked for.
_BUILT_IN = {
    name: EntryPoint(name, f"talk2dino.methods.{place}", GROUP)
    for name, place in {
        "talk2dino": "talk2dino:Talk2Dino",
        "clip-dense": "clip_dense:ClipDense",
        "dino-clusters": "dino_clusters:DinoClusters",
        "freeda": "freeda:FreeDA",
    }.items()
}


@cache
def _known() -> dict[str, EntryPoint]:
    """All methods; a name of this package's cannot be taken by another package."""
    return {point.name: point for point in entry_points(group=GROUP)} | _BUILT_IN


def method_names() -> tuple[str, ...]:
    """All methods that can be used by name."""
    return tuple(_BUILT_IN | _known())


def check_method(name: str) -> str:
    """Return the name of a method.

    Raises:
        InputError: there is no method of that name.
    """
    if name not in _known():
        raise InputError(f"no method named {name!r}{suggestion(name, method_names(), cutoff=0.4)}; "
                         f"available: {', '.join(method_names())}")  # fmt: skip
    return name


@cache
def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        InputError: there is no method of that name, or it cannot be loaded or is not a ``Method``.
    """
    from talk2dino.methods.base import Method

    point = _known()[check_method(name)]
    try:
        found: object = point.load()
    except Exception as error:  # whatever another package's import raises
        raise InputError(f"the method {name} ({point.value}) cannot be loaded: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise InputError(f"the method {name} must be a subclass of talk2dino.methods.base.Method; got {found!r}")
    return found


def method_facts(name: str) -> Facts:
    """What is known about a method without loading a model."""
    return method_class(name).facts


def option_names(name: str) -> tuple[str, ...]:
    """The options of a method."""
    return tuple(option for option in inspect.signature(method_class(name)).parameters if option != "towers")


def check_options(name: str, options: Iterable[str]) -> None:
    """Refuse options that a method does not have, before a model is loaded.

    Raises:
        InputError: there is no such method or option.
    """
    known = option_names(name)
    if unknown := [option for option in options if option not in known]:
        raise InputError(
            f"{name} has no option {', '.join(map(repr, unknown))}{suggestion(unknown[0], known)}; it has: {', '.join(known)}"
        )


def make_method(name: str, towers: Towers, **options: Any) -> Method:
    """A method on models that are loaded.

    Raises:
        InputError: there is no such method or option, or an option has a value of the wrong kind.
    """
    check_options(name, options)
    try:
        return method_class(name)(towers, **options)
    except TypeError as error:  # for example text where a number belongs
        given = ", ".join(f"{option}={value!r}" for option, value in options.items())
        raise InputError(f"{name} cannot use the options {given}: {error}") from error
