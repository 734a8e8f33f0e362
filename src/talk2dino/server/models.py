"""The loaded model and the methods that run on it, made when they are first asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from talk2dino.errors import Talk2DinoError
from talk2dino.io.images import read_image
from talk2dino.methods import method_class, method_names
from talk2dino.methods.base import Method
from talk2dino.segmenter import Segmenter
from talk2dino.server.options import ServeOptions
from talk2dino.server.problems import Problem


def load_segmenter(options: ServeOptions, say: Callable[[str], None] = lambda step: None) -> Segmenter:
    """The model that the options name, with its first image behind it, so that no user waits for compilation.

    Args:
        say: called with the name of each step.
    """
    say("loading the model")
    segmenter = Segmenter.from_pretrained(
        options.model, method=options.method, projection=options.projection, text=options.text,
        translate=options.translate, device=options.device, dtype=options.dtype, engine=options.engine,
        **options.method_options(options.method),
    )  # fmt: skip
    say("segmenting a first image")
    side = segmenter.method.size
    blank = torch.zeros(side, side, 3, dtype=torch.uint8).numpy()
    background = segmenter.method.threshold is not None and not segmenter.method.facts.matched
    segmenter.segment(read_image(blank), ["1", "2"], background=background or None)
    return segmenter


class Models:
    """All methods on the towers of one segmenter."""

    def __init__(self, segmenter: Segmenter, options: ServeOptions) -> None:
        self.default, self.options = segmenter, options
        self._made: dict[str, Segmenter] = {segmenter.method.name: segmenter}
        self._locks: dict[str, threading.Lock] = {}
        self._making = threading.Lock()

    def get(self, name: str | None) -> Segmenter:
        """The segmenter of a method; the first call may take a while.

        Raises:
            Problem: 422, there is no such method, or it cannot run here, and why.
        """
        name = name or self.default.method.name
        if name not in method_names():
            raise Problem(
                422, f"there is no method {name[:60]!r}", kind="no-such-method", accepted=list(method_names())
            )
        with self._making:
            if name not in self._made:
                try:
                    self._made[name] = self.default.with_method(name, **self.options.method_options(name))
                except Talk2DinoError as error:
                    raise Problem(422, str(error), kind="method-not-available", accepted=list(self._made)) from None
            return self._made[name]

    @contextmanager
    def using(self, method: Method) -> Iterator[None]:
        """One thread at a time, for methods that do not allow several."""
        if method.facts.thread_safe:
            yield
        else:
            with self._locks.setdefault(method.name, threading.Lock()):
                yield

    def describe(self) -> dict[str, Any]:
        """The loaded model."""
        segmenter, method = self.default, self.default.method
        return {
            "name": segmenter.name, "size": method.size, "patch_size": method.patch_size, "dim": segmenter.vision.dim,
            "heads": segmenter.vision.num_heads, "variant": method.options.get("variant"), "threshold": method.threshold,
            "threshold_range": list(method.threshold_range), "dtype": str(segmenter.dtype).removeprefix("torch."),
            "device": str(segmenter.device), "engine": segmenter.engine, "method": method.name, "space": method.space,
        }  # fmt: skip

    def describe_methods(self) -> list[dict[str, Any]]:
        """Every method, whether it can run here, and if not, why."""
        rows = []
        for name in method_names():
            facts = method_class(name).facts
            row: dict[str, Any] = {
                "name": name, "description": facts.summary, "modes": list(facts.modes), "default_mode": facts.modes[0],
                "can_clean": facts.can_clean, "takes_words": not facts.matched, "threshold": None,
                "threshold_range": [-1.0, 1.0], "available": True, "reason": "",
            }  # fmt: skip
            try:
                method = self.get(name).method
                row |= {"threshold": method.threshold, "threshold_range": list(method.threshold_range)}
            except Problem as problem:
                row |= {"available": False, "reason": str(problem.detail)}
            rows.append(row)
        return rows
