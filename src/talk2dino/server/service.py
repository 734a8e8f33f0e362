"""What the routes ask for: features of images, words as vectors, answers.

    upload --(images)--> pixels --(batches, vision)--> features --(labels)--> answer
    words  --(words)--> vectors ---------------------------------^

Each name in brackets is a pool of threads, so that decoding, the vision model and the writing of answers overlap. The
vision model and the text model have one thread each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import torch

from talk2dino import pipeline
from talk2dino.io.images import LoadedImage, image_size, read_image
from talk2dino.segmenter import Segmenter
from talk2dino.server import answers
from talk2dino.server.batching import Batcher, Waiting
from talk2dino.server.budget import Budget
from talk2dino.server.forward import Worker, fetch_upload
from talk2dino.server.models import Models
from talk2dino.server.observe import Metrics
from talk2dino.server.options import ServeOptions
from talk2dino.server.problems import Problem, busy
from talk2dino.server.schemas import Ask, Region
from talk2dino.server.sessions import Session, Sessions, return_memory
from talk2dino.server.wording import Shown, Wording, run_in
from talk2dino.types import ImageFeatures, Segmentation, TextFeatures

T = TypeVar("T")
#: What an answer is made from: the result, the image (for an overlay), the format that was asked for.
Answer = Callable[[Segmentation, LoadedImage | None, str], T]
#: Class -> its examples as encode_examples takes them.
Examples = dict[str, list[tuple[ImageFeatures, Any]]]


class Service:
    """A loaded model behind a queue. Made inside the running event loop."""

    def __init__(
        self, segmenter: Segmenter, options: ServeOptions, metrics: Metrics, *, worker: Worker | None = None
    ) -> None:
        self.options, self.metrics, self.worker = options, metrics, worker
        self.models = Models(segmenter, options)
        prefix = "" if worker is None else worker.prefix
        self.sessions = Sessions(options.sessions, options.session_bytes, options.session_seconds, prefix=prefix)
        threads = torch.get_num_threads()
        self._vision = ThreadPoolExecutor(1, "vision", torch.set_num_threads, (threads,))
        self._words = ThreadPoolExecutor(1, "words", torch.set_num_threads, (threads,))
        self._labels = ThreadPoolExecutor(2, "labels", torch.set_num_threads, (max(1, threads // 2),))
        self._images = ThreadPoolExecutor(2, "images")
        self.batcher = Batcher(
            self._encode_batch, self._vision, size=options.batch_size, seconds=options.batch_milliseconds / 1000,
            dropped=metrics.dropped.inc,
        )  # fmt: skip
        self.active = 0
        self._pixels = Budget(options.decoded_pixels)
        self.wording = Wording(self.models, options, self._words)
        self._sweeper = asyncio.ensure_future(self._sweep())

    async def close(self) -> None:
        """Stop what runs in the background and forget every image."""
        self._sweeper.cancel()
        await asyncio.gather(self._sweeper, return_exceptions=True)
        await self.batcher.close()
        for pool in (self._vision, self._words, self._labels, self._images):
            pool.shutdown(wait=True, cancel_futures=True)
        self.sessions.clear()

    def check_room(self) -> None:
        """Refuse a request (503) before its body is read if there is no place for it."""
        if self.active >= self.options.queue:
            raise busy(f"{self.active} requests are waiting already", 1 + self.active / 50, kind="queue-full")

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """A place among the requests that are worked on.

        Raises:
            Problem: 503, the service has as many as it takes.
        """
        self.check_room()
        self.active += 1
        self.metrics.waiting.set(self.active)
        try:
            yield
        finally:
            self.active -= 1
            self.metrics.waiting.set(self.active)

    # --- images ------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def decoded(self, upload: bytes) -> AsyncIterator[LoadedImage]:
        """The pixels of an upload, which wait until there is room for them; raises ImageError."""
        size = await run_in(self._images, lambda: image_size(upload))
        height, width = size or (0, 0)
        most = self.options.max_pixels
        async with self._pixels.holding(min(height * width, most)):
            yield await run_in(self._images, read_image, _Upload(upload), max_pixels=most)

    async def segmenter(self, method: str | None) -> Segmenter:
        """The segmenter of a method (422 where it cannot run)."""
        if method in (None, self.models.default.method.name):
            return self.models.default
        return await run_in(self._words, self.models.get, method)

    async def encode(self, image: LoadedImage, mode: str, segmenter: Segmenter) -> ImageFeatures:
        """Features of one image, together with others in the queue."""
        view = pipeline.plan_view(image.size, mode, segmenter.method)
        return await self.batcher.encode(image, view, segmenter.method)

    def _encode_batch(self, batch: Sequence[Waiting]) -> list[ImageFeatures]:
        start, method = time.perf_counter(), batch[0].method
        with torch.inference_mode(), self.models.using(method), _enough_memory():
            size = pipeline.WINDOW_BATCH if batch[0].view.boxes else len(batch)
            encoded = pipeline.encode_images(
                [one.image for one in batch], [one.view for one in batch], method, batch_size=size
            )
            features = list(encoded)
        self.metrics.batches.observe(len(batch))
        self.metrics.forward.observe(time.perf_counter() - start)
        return features

    # --- encoded images ----------------------------------------------------------------------------------------------

    async def keep(self, upload: bytes, mode: str = "") -> Session:
        """Encode an image and keep it."""
        segmenter = self.models.default
        key = (segmenter.method.name, mode or segmenter.method.facts.modes[0])
        async with self.decoded(upload) as image:
            features = await self.encode(image, key[1], segmenter)
        session = self.sessions.add(upload, features.image_size, features.notes, key, features)
        self._count_sessions()
        return session

    async def features(self, session: Session, mode: str | None, segmenter: Segmenter) -> ImageFeatures:
        """Features of a kept image; encoded on first use of another method or mode."""
        key = (segmenter.method.name, mode or segmenter.method.facts.modes[0])
        kept = session.features.get(key)
        if kept is None:
            async with self.decoded(session.upload) as image:
                kept = await self.encode(image, key[1], segmenter)
            self.sessions.put(session, key, kept)
            self._count_sessions()
        return kept

    async def _features_of(self, id: str, mode: str | None, segmenter: Segmenter) -> ImageFeatures:
        """Features of the image of an id, which another worker may keep (404 where there is none)."""
        if self.worker is not None and not id.startswith(self.worker.prefix):
            token = self.options.token.get_secret_value() if self.options.token else ""
            upload = await fetch_upload(self.worker, id, token)
            if upload is not None:
                async with self.decoded(upload) as image:
                    return await self.encode(image, mode or segmenter.method.facts.modes[0], segmenter)
        return await self.features(self.sessions.get(id), mode, segmenter)

    def forget(self, id: str) -> None:
        """Remove a kept image (404 where there is none)."""
        self.sessions.remove(id)
        self._count_sessions()

    def _count_sessions(self) -> None:
        self.metrics.sessions.set(len(self.sessions))
        self.metrics.session_bytes.set(self.sessions.nbytes)

    async def _sweep(self) -> None:
        """Let images go whose time is over, and give their memory back to the system."""
        while True:
            await asyncio.sleep(min(15.0, max(0.2, self.options.session_seconds / 4)))
            if self.sessions.expire():
                self._count_sessions()
                await run_in(self._images, return_memory)

    # --- words -------------------------------------------------------------------------------------------------------

    async def _classes(self, ask: Ask, segmenter: Segmenter, own: ImageFeatures) -> TextFeatures:
        """The classes of a request; its examples are in the image itself or in other kept images."""

        async def with_features(regions: Mapping[str, Sequence[Region]]) -> Shown:
            found: dict[str, list[tuple[ImageFeatures, Region]]] = {}
            for name, several in regions.items():
                for region in several:
                    features = own
                    if region.image is not None:
                        features = await self._features_of(region.image, ask.mode, segmenter)
                    found.setdefault(name, []).append((features, region))
            return found

        count = sum(map(len, (*ask.examples.values(), *ask.negative_examples.values())))
        if count > self.options.max_prompts:
            raise Problem(413, f"{count:,} examples were given", kind="too-many-examples",
                          accepted=f"at most {self.options.max_prompts:,}")  # fmt: skip
        shown, unwanted = await with_features(ask.examples), await with_features(ask.negative_examples)
        return await self.wording.vectors(ask, segmenter, shown, unwanted)

    # --- answers -----------------------------------------------------------------------------------------------------

    async def segment(self, upload: bytes, ask: Ask) -> bytes:
        """Segment an image that is not kept."""
        return await self.segment_into(upload, ask, answers.segmentation_answer)

    async def segment_into(self, upload: bytes, ask: Ask, answer: Answer[T]) -> T:
        """The same; ``answer`` makes something of the result."""
        segmenter = await self.segmenter(ask.method)
        mode = ask.mode or segmenter.method.facts.modes[0]
        if not ask.examples and not ask.negative_examples:
            text = await self.wording.vectors(ask, segmenter)  # mistakes in words are found before the model works
            self._options(segmenter, text, ask)
        async with self.decoded(upload) as image:
            features = await self.encode(image, mode, segmenter)
            return await self.label(features, image, ask, segmenter, answer)

    async def ask_again(self, session: Session, ask: Ask) -> bytes:
        """Segment a kept image."""
        segmenter = await self.segmenter(ask.method)
        features = await self.features(session, ask.mode, segmenter)
        if ask.format != "overlay":
            return await self.label(features, None, ask, segmenter, answers.segmentation_answer)
        async with self.decoded(session.upload) as image:
            return await self.label(features, image, ask, segmenter, answers.segmentation_answer)

    async def label(
        self, features: ImageFeatures, image: LoadedImage | None, ask: Ask, segmenter: Segmenter, answer: Answer[T]
    ) -> T:  # fmt: skip
        """Features and words to an answer."""
        text = await self._classes(ask, segmenter, features)
        options = self._options(segmenter, text, ask)
        self._check_scores(features, text, ask)

        def work() -> T:
            with self.models.using(segmenter.method), _enough_memory():
                pipeline.check_features(features, text, segmenter.method)
                done = pipeline.decode_image(features, text, segmenter.method, options)
            return answer(done, image, ask.format)

        return await run_in(self._labels, work)

    def _options(self, segmenter: Segmenter, text: TextFeatures, ask: Ask) -> pipeline.DecodeOptions:
        method = segmenter.method
        background = pipeline.join_thresholds(ask.background, ask.threshold, text.names, method.threshold)
        return pipeline.read_options(method, text.names, background, ask.clean, ask.refine, False)

    def _check_scores(self, features: ImageFeatures, text: TextFeatures, ask: Ask) -> None:
        """Refuse what would hold the scores of too many classes at the size of windows or for refinement (413)."""
        size = features.canvas or (features.pixels.shape[2:] if ask.refine and features.pixels is not None else (0, 0))
        most = self.options.max_scores
        if len(text) * size[0] * size[1] > most:
            raise Problem(413, f"{len(text)} classes are too many for refinement and windows of this image",
                          kind="too-many-scores", accepted=f"at most {most // (size[0] * size[1])} classes",
                          hint="ask without refinement, or in several requests")  # fmt: skip

    async def features_file(self, session: Session) -> bytes:
        """The binary answer with the features of a kept image.

        Raises:
            Problem: 409, the image was encoded in windows.
        """
        segmenter = self.models.default
        features = await self.features(session, None, segmenter)
        if features.boxes is not None:
            raise Problem(409, "this image is too elongated to be seen as a whole and was encoded in windows",
                          kind="windows", hint="POST /v1/images/{id}/segment labels it")  # fmt: skip
        return await run_in(self._labels, answers.features_file, features, segmenter.method)

    async def picture(self, session: Session) -> tuple[bytes, str]:
        """The kept image as it was read, and its media type."""
        async with self.decoded(session.upload) as image:
            return await run_in(self._images, answers.picture, session.upload, image)


@contextmanager
def _enough_memory() -> Iterator[None]:
    """A device without room for a request is a 503, not a failure."""
    try:
        yield
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise busy("there is not enough memory for this request now", 5, kind="no-memory") from None


class _Upload:
    """A file object whose name is what messages call it."""

    name = "the image"

    def __init__(self, content: bytes) -> None:
        self.content = content

    def read(self) -> bytes:
        return self.content
