"""Threads that take one batch after the other from reading to writing, so that decoding, forward passes and writing overlap."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from talk2dino.segmenter import Segmenter

T = TypeVar("T")
Key = Callable[[T], object]

#: Batches' worth of images that an image waits for others of its size.
LOOK_AHEAD = 16


def choose_workers(segmenter: Segmenter, asked: int | None, most: int) -> int:
    """Number of threads that share the work: ``asked``, else by the cores; 1 if the method cannot run in several."""
    import torch

    if not segmenter.method.facts.thread_safe:
        return 1
    return max(1, min(asked or min(4, max(2, torch.get_num_threads())), most))


def run_batches(
    batches: Iterable[list[T]], do: Callable[[list[T]], None], *, workers: int, stopping: threading.Event
) -> None:
    """Call ``do`` with each batch, in ``workers`` threads that share torch's threads.

    Args:
        stopping: set when a call fails or the work is interrupted; ``do`` may look at it to end early.
    """
    import torch

    before, source, lock = torch.get_num_threads(), iter(batches), threading.Lock()
    threads = max(1, before // workers)

    def work() -> None:
        while not stopping.is_set():
            with lock:
                batch = next(source, None)
            if batch is None:
                return
            do(batch)

    torch.set_num_threads(threads)
    try:
        with ThreadPoolExecutor(workers, "segment", torch.set_num_threads, (threads,)) as pool:
            running = [pool.submit(work) for _ in range(workers)]
            try:
                for future in as_completed(running):
                    future.result()
            except BaseException:
                stopping.set()  # what is past its forward pass is still written
                raise
    finally:
        torch.set_num_threads(before)


def group(items: Iterable[T], key: Key[T], size: int) -> Iterator[list[T]]:
    """Groups of at most ``size`` items with equal keys, roughly in order.

    An item waits for others with its key, but only until ``LOOK_AHEAD * size`` further ones have been looked at.
    """
    groups: dict[object, list[tuple[int, T]]] = {}  # the group whose first item has waited longest comes first
    for number, item in enumerate(items):
        own = key(item)
        groups.setdefault(own, []).append((number, item))
        oldest = next(iter(groups))
        if len(groups[own]) == size:
            ready = own
        elif number - groups[oldest][0][0] >= LOOK_AHEAD * size:
            ready = oldest
        else:
            continue
        yield [item for _, item in groups.pop(ready)]
    yield from ([item for _, item in found] for found in groups.values())
