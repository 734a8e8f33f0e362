"""Encoded images that clients ask again: bounded in number, bytes and time; the least recently used goes first."""

from __future__ import annotations

import ctypes
import gc
import secrets
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from talk2dino.server.problems import Problem
from talk2dino.types import ImageFeatures


@dataclass
class Session:
    """One image: the file as it was sent, and its features for each (method, mode) that was asked for."""

    id: str
    upload: bytes
    size: tuple[int, int]
    notes: tuple[str, ...]
    expires: float
    features: dict[tuple[str, str], ImageFeatures] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return len(self.upload) + sum(features_bytes(features) for features in self.features.values())


def features_bytes(features: ImageFeatures) -> int:
    """Memory of the tensors of an encoded image."""
    tensors = (features.patches, features.pixels, features.attention, features.cls)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


class Sessions:
    """The encoded images of one process, by their ids, which nobody can guess.

    Args:
        count, nbytes, seconds: bounds on their number, on their memory, and on the time since each was last used.
        prefix: put before every id (the number of the worker process).
    """

    def __init__(
        self, count: int, nbytes: int, seconds: float, *, prefix: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.count, self.limit, self.seconds, self.prefix, self.clock = count, nbytes, seconds, prefix, clock
        self._kept: OrderedDict[str, Session] = OrderedDict()  # least recently used first, so also first to expire
        self._sizes: dict[str, int] = {}
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def add(
        self,
        upload: bytes,
        size: tuple[int, int],
        notes: tuple[str, ...],
        key: tuple[str, str],
        features: ImageFeatures,
    ) -> Session:
        """Keep an encoded image.

        Raises:
            Problem: it alone is larger than the memory of all (413).
        """
        own = len(upload) + features_bytes(features)
        if own > self.limit:
            raise Problem(413, f"the encoded image takes {own:,} bytes", kind="too-large",
                          accepted=f"at most {self.limit:,} bytes", hint="use POST /v1/segment, which keeps nothing")  # fmt: skip
        id = self.prefix + secrets.token_urlsafe(18)
        session = Session(id, upload, size, notes, self.clock() + self.seconds, {key: features})
        self._kept[id] = session
        self._measure(session)
        self._make_room()
        return session

    def get(self, id: str) -> Session:
        """The image of that id, whose time begins anew.

        Raises:
            Problem: 404, it never existed, expired, was removed, or belongs to somebody else who has another id.
        """
        self.expire()
        session = self._kept.get(id)
        if session is None:
            raise Problem(404, "there is no encoded image with this id; it may have expired", kind="no-such-image",
                          hint="send the image again with POST /v1/images")  # fmt: skip
        session.expires = self.clock() + self.seconds
        self._kept.move_to_end(id)
        return session

    def put(self, session: Session, key: tuple[str, str], features: ImageFeatures) -> None:
        """Keep features of another method or mode as well, unless the image is gone in the meantime."""
        if session.id in self._kept:
            session.features[key] = features
            self._measure(session)
            self._make_room()

    def remove(self, id: str) -> None:
        """Forget an image; raises Problem (404) as :meth:`get`."""
        self._drop(self.get(id).id)

    def expire(self) -> int:
        """Forget the images whose time is over; returns how many."""
        now, gone = self.clock(), 0
        while self._kept and next(iter(self._kept.values())).expires <= now:
            self._drop(next(iter(self._kept)))
            gone += 1
        return gone

    def clear(self) -> None:
        for id in list(self._kept):
            self._drop(id)

    def _measure(self, session: Session) -> None:
        self.nbytes += session.nbytes - self._sizes.get(session.id, 0)
        self._sizes[session.id] = session.nbytes

    def _make_room(self) -> None:
        while len(self._kept) > self.count or (self.nbytes > self.limit and len(self._kept) > 1):
            self._drop(next(iter(self._kept)))

    def _drop(self, id: str) -> None:
        del self._kept[id]
        self.nbytes -= self._sizes.pop(id)


def return_memory() -> None:
    """Give freed memory back to the system, which glibc otherwise keeps for later."""
    gc.collect()
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)
