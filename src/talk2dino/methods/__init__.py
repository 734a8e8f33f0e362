"""The systems that talk2dino is compared with, behind the same ``segment()``, by name.

talk2dino      ours: psi maps CLIP text into DINO's space (talk2dino.segmenter)
clip-dense     CLIP alone: dense values of the last block
dino-clusters  DINO alone: segments without words, matched to classes with the truth's help
freeda         DINO and CLIP with retrieved visual prototypes, no training
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from talk2dino.errors import InputError
from talk2dino.types import Segmentation

#: name -> (module, class made from a Segmenter and keyword options). Modules are imported when asked for.
METHODS: dict[str, tuple[str, str]] = {
    "talk2dino": ("talk2dino.segmenter", "Segmenter"),
    "clip-dense": ("talk2dino.methods.clip_dense", "ClipDense"),
    "dino-clusters": ("talk2dino.methods.dino_clusters", "DinoClusters"),
    "freeda": ("talk2dino.methods.freeda", "FreeDA"),
}


class Method(Protocol):
    """What evaluation, comparison, command line and server use of a system. ``Segmenter`` is one.

    A system whose segments have no class sets ``matched = True``: the evaluation then matches them to the truth.
    """

    def encode_text(self, prompts: Any) -> Any: ...

    def segment(self, image: Any, prompts: Any, **options: Any) -> Segmentation: ...

    def segment_batch(self, images: Sequence[Any], prompts: Any, **options: Any) -> list[Segmentation]: ...


def load_method(name: str, model: str | Path = "auto", **options: Any) -> Any:
    """Load a system by name.

    Args:
        name: one of :data:`METHODS`.
        model: the model whose vision, text and CLIP towers are used: as in ``Segmenter.from_pretrained``.
        options: ``device``, ``dtype``, ``projection``, ``local_files_only`` and the like go to the model, others to the
            system (``prototypes`` for freeda, ``variant`` for clip-dense, ``segments`` for dino-clusters).

    Raises:
        InputError: no such system; near names are suggested.
    """
    from talk2dino.segmenter import Segmenter

    of_model = ("projection", "device", "dtype", "revision", "cache_dir", "local_files_only")
    check_method(name)
    segmenter = Segmenter.from_pretrained(model, **{key: options.pop(key) for key in of_model if key in options})
    return wrap_segmenter(name, segmenter, **options)


def wrap_segmenter(name: str, segmenter: Any, **options: Any) -> Any:
    """One of the systems on the towers of a model that is loaded already."""
    check_options(name, options)
    if name == "talk2dino":
        return segmenter
    module, factory = METHODS[name]
    try:
        return getattr(importlib.import_module(module), factory)(segmenter, **options)
    except TypeError as error:  # a word where a number belongs
        given = ", ".join(f"{option}={value!r}" for option, value in options.items())
        raise InputError(f"{name} cannot use the options {given}: {error}") from error


def check_options(name: str, options: Iterable[str]) -> None:
    """Refuse names of options that a system does not have; nothing is made for it."""
    check_method(name)
    if name == "talk2dino":
        if options:
            raise InputError(f"talk2dino takes no options of its own; got {', '.join(options)}")
        return
    module, factory = METHODS[name]
    system = getattr(importlib.import_module(module), factory)
    known = [option for option in inspect.signature(system).parameters if option != "segmenter"]
    if unknown := [option for option in options if option not in known]:
        raise InputError(f"{name} has no option {', '.join(unknown)}; it has: {', '.join(known)}")


def check_method(name: str) -> str:
    if name not in METHODS:
        near = difflib.get_close_matches(name.lower(), METHODS, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise InputError(f"no method named {name!r}; {hint}known: {', '.join(METHODS)}")
    return name
