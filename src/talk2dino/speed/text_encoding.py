"""140 prompts: encoded the first time, from the cache in memory, and from the cache on disk."""

from __future__ import annotations

import functools
import os
import statistics
import tempfile
from collections.abc import Iterator
from unittest.mock import patch

from talk2dino.io.cache import VARIABLE
from talk2dino.models.text import PUBLISHED_TEMPLATES, TextEncoder
from talk2dino.speed.clocks import seconds
from talk2dino.speed.figures import Figure
from talk2dino.speed.plan import Plan
from talk2dino.speed.workload import class_names, load


def text_encoding(plan: Plan) -> Iterator[Figure]:
    """Seven templates and twenty classes, as the published pipeline is timed; the cache is a temporary folder."""
    given = load(plan.options.model, device=plan.device, dtype="float32").text
    classes = [[name] for name in class_names(20)]
    times: dict[str, list[float]] = {"first": [], "memory": [], "disk": []}
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, {VARIABLE: folder}):
            encoder = _new_encoder(given)
            for name, one in (("first", encoder), ("memory", encoder), ("disk", _new_encoder(given))):
                times[name].append(seconds(functools.partial(one.embed_classes, classes), plan.device))
    medians = {name: statistics.median(values) for name, values in times.items()}
    yield Figure("text", "140 prompts, first time", 1000 * medians["first"], "ms")
    for name, where in (("memory", "in memory"), ("disk", "on disk, with a new encoder")):
        yield Figure("text", f"140 prompts, cached {where}", 1000 * medians[name], "ms")
    for name, where in (("memory", "in memory"), ("disk", "on disk")):
        yield Figure("text", f"first time / cached {where}", medians["first"] / medians[name], "x")


def _new_encoder(given: TextEncoder) -> TextEncoder:
    """The same text model with an empty memory; the checksum of its weights is computed here, not while timing."""
    encoder = TextEncoder(given.model, given.tokenizer, PUBLISHED_TEMPLATES, disk_cache=True)
    encoder.embed(["warm up"])
    return encoder
