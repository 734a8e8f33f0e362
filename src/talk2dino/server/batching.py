"""One queue in front of the vision model: requests at the same time share forward passes.

    requests -> waiting -> batches of one method and one seen size -> the model's thread -> features

While the model is busy, requests gather; the oldest then takes all others of its kind along. When the model is free and
the batch is not full, it waits a few milliseconds for others. A request that was cancelled (its client left, its time is
over) is dropped before it is computed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from time import monotonic

import anyio

from talk2dino.io.images import LoadedImage
from talk2dino.methods.base import Method
from talk2dino.pipeline import View, view_key
from talk2dino.types import ImageFeatures


@dataclass(eq=False)
class Waiting:
    """One image in the queue."""

    image: LoadedImage
    view: View
    method: Method
    future: asyncio.Future[ImageFeatures]
    since: float = field(default_factory=monotonic)

    @property
    def key(self) -> object:
        """Images with equal keys can share a forward pass."""
        return self.method.name, view_key(self.view)

    @property
    def cost(self) -> int:
        """How many windows go through the model."""
        return len(self.view.boxes or (None,))


Encode = Callable[[Sequence[Waiting]], Sequence[ImageFeatures]]


class Batcher:
    """Fills batches and runs them one after the other.

    Args:
        encode: a batch of one key to features; called in ``thread``.
        thread: an executor with one thread.
        size: images (windows) per batch. seconds: longest wait for others while the model is free.
        dropped: called with the number of requests that were dropped before they were computed.
    """

    def __init__(
        self,
        encode: Encode,
        thread: Executor,
        *,
        size: int,
        seconds: float,
        dropped: Callable[[int], None] = lambda n: None,
    ) -> None:
        self.encode_batch, self.thread, self.size, self.seconds, self.dropped = encode, thread, size, seconds, dropped
        self.waiting: list[Waiting] = []
        self.arrived = asyncio.Event()
        self.task = asyncio.ensure_future(self._run())

    async def encode(self, image: LoadedImage, view: View, method: Method) -> ImageFeatures:
        """Features of one image; cancelling this takes the image out of the queue."""
        one = Waiting(image, view, method, asyncio.get_running_loop().create_future())
        self.waiting.append(one)
        self.arrived.set()
        return await one.future

    async def close(self) -> None:
        """Stop; what waits is cancelled."""
        self.task.cancel()
        for one in self.waiting:
            one.future.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self.arrived.clear()
            self._forget_cancelled()
            if not self.waiting:
                await self.arrived.wait()
                continue
            batch = self._oldest()
            left = self.waiting[0].since + self.seconds - monotonic()
            if sum(one.cost for one in batch) < self.size and left > 0:
                with anyio.move_on_after(left):
                    await self.arrived.wait()
                continue
            for one in batch:
                self.waiting.remove(one)
            await self._compute(batch)

    def _forget_cancelled(self) -> None:
        kept = [one for one in self.waiting if not one.future.done()]
        if len(kept) < len(self.waiting):
            self.dropped(len(self.waiting) - len(kept))
            self.waiting = kept

    def _oldest(self) -> list[Waiting]:
        """The oldest request and those that go with it, at most one batch."""
        batch: list[Waiting] = []
        windows = 0
        for one in self.waiting:
            if one.key == self.waiting[0].key and (not batch or windows + one.cost <= self.size):
                batch.append(one)
                windows += one.cost
            if windows >= self.size:
                break
        return batch

    async def _compute(self, batch: list[Waiting]) -> None:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self.thread, self.encode_batch, batch)
        except Exception as error:
            if len(batch) > 1:  # one image must not fail the others
                for one in batch:
                    await self._compute([one])
            elif not batch[0].future.done():
                batch[0].future.set_exception(error)
            return
        for one, features in zip(batch, found, strict=True):
            if not one.future.done():
                one.future.set_result(features)
