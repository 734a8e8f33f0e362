"""The classes of a request as vectors: words, and examples. In a thread of their own; the vectors of words are kept."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar

import numpy as np

from talk2dino.io.rle import decode_rle
from talk2dino.segmenter import Segmenter
from talk2dino.server.models import Models
from talk2dino.server.options import ServeOptions
from talk2dino.server.problems import Problem
from talk2dino.server.schemas import Region, WordsAsk
from talk2dino.types import ImageFeatures, TextFeatures
from talk2dino.words.prompts import PromptList

T = TypeVar("T")
#: Class -> regions, each with the features of its image.
Shown = Mapping[str, Sequence[tuple[ImageFeatures, Region]]]


class Wording:
    """Words and examples to vectors.

    Args:
        thread: an executor with one thread, for the text model.
    """

    def __init__(self, models: Models, options: ServeOptions, thread: Executor) -> None:
        self.models, self.options, self.thread = models, options, thread
        self._kept: OrderedDict[object, TextFeatures] = OrderedDict()  # least recently used first
        self._rows = 0  # vectors of all that is kept

    async def vectors(
        self, ask: WordsAsk, segmenter: Segmenter, shown: Shown | None = None, unwanted: Shown | None = None
    ) -> TextFeatures:
        """The classes of a request.

        Args:
            shown, unwanted: examples of classes, and of what becomes background.
        """
        prompts, negative = ask.read(self.options.max_prompts)
        text = None
        if prompts is not None:
            text = await self._embed(prompts, negative, segmenter)
        if shown or unwanted:
            examples = await run_in(self.thread, self._embed_examples, segmenter, shown or {}, unwanted or {})
            text = examples if text is None else text + examples
        if text is None:
            raise Problem(422, "no prompts were given", kind="refused-input", accepted='for example "sky, grass"')
        return text

    async def _embed(self, prompts: PromptList, negative: PromptList | None, segmenter: Segmenter) -> TextFeatures:
        key = (segmenter.method.name, prompts, negative)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]

        def embed() -> TextFeatures:
            with self.models.using(segmenter.method):
                return segmenter.encode_text(prompts, negative=negative)

        text = await run_in(self.thread, embed)
        if key not in self._kept:
            self._kept[key] = text
            self._rows += len(text)
        while self._rows > self.options.text_cache:
            self._rows -= len(self._kept.popitem(last=False)[1])
        return text

    def _embed_examples(self, segmenter: Segmenter, shown: Shown, unwanted: Shown) -> TextFeatures:
        every = [pair for several in (*shown.values(), *unwanted.values()) for pair in several]
        pixels = sum(features.image_size[0] * features.image_size[1] for features, _ in every)
        if pixels > 10 * self.options.max_pixels:  # each region is drawn as a mask of its image's size
            raise Problem(413, f"{len(every)} examples in images of this size are too many", kind="too-many-examples",
                          accepted=f"at most {10 * self.options.max_pixels * len(every) // pixels}")  # fmt: skip
        wanted, negative = (
            {name: [(features, _region(region, features.image_size)) for features, region in several]
             for name, several in classes.items()}
            for classes in (shown, unwanted)
        )  # fmt: skip
        with self.models.using(segmenter.method):
            return segmenter.encode_examples(wanted, negative=negative or None)


def _region(region: Region, size: tuple[int, int]) -> Any:
    if region.rle is None:
        return region.box or region.point
    if tuple(region.rle.size) != size:
        raise Problem(422, f"the mask has {region.rle.size[0]} x {region.rle.size[1]} pixels (height x width)",
                      kind="refused-input", accepted=f"the size of the image, {size[0]} x {size[1]}")  # fmt: skip
    return np.ascontiguousarray(decode_rle({"size": region.rle.size, "counts": region.rle.counts}))


async def run_in(pool: Executor, work: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Run in a thread of a pool; cancelling this before it starts takes it out of the pool's queue."""
    return await asyncio.get_running_loop().run_in_executor(pool, partial(work, *arguments, **named))
