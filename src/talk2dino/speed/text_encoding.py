"""140 prompts: the first time, remembered in memory, and remembered on disk by an encoder that starts anew."""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from talk2dino.io.cache import VARIABLE
from talk2dino.models.text import PUBLISHED_TEMPLATES, TextEncoder
from talk2dino.speed.figures import Figure, Plan
from talk2dino.speed.measure import seconds
from talk2dino.speed.parts import class_names, load


def text(plan: Plan) -> Iterator[Figure]:
    """Seven templates and twenty classes, as the published pipeline is timed; the cache is a folder of this run's own."""
    segmenter = load(plan.options.model, device=plan.device, dtype="float32")
    classes = [[name] for name in class_names(20)]
    times: dict[str, list[float]] = {"first": [], "memory": [], "disk": []}
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder, _cache_in(Path(folder)):
            encoder = _encoder(segmenter)
            for name, one in (("first", encoder), ("memory", encoder), ("disk", _encoder(segmenter))):
                work = functools.partial(one.embed_classes, classes)
                times[name].append(seconds(work, plan.device))
    medians = {name: statistics.median(values) for name, values in times.items()}
    yield Figure("text", "140 prompts, first time", 1000 * medians["first"], "ms")
    for name, where in (("memory", "in memory"), ("disk", "on disk, by an encoder that starts anew")):
        yield Figure("text", f"140 prompts, remembered {where}", 1000 * medians[name], "ms")
    for name, where in (("memory", "in memory"), ("disk", "on disk")):
        yield Figure("text", f"first time / remembered {where}", medians["first"] / medians[name], "x")


def _encoder(segmenter: Any) -> TextEncoder:
    """The segmenter's text model with empty hands, its weights' checksum computed."""
    given = segmenter.text
    encoder = TextEncoder(given.model, given.tokenizer, PUBLISHED_TEMPLATES, disk_cache=True)
    encoder.embed(["warm up"])
    return encoder


@contextlib.contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    """The cache folder, for a while."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
