"""The parts of the service by themselves: batches, encoded images, budgets."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from talk2dino.pipeline import View
from talk2dino.server.batching import Batcher
from talk2dino.server.budget import Budget
from talk2dino.server.problems import Problem
from talk2dino.server.sessions import Sessions, features_bytes
from talk2dino.types import ImageFeatures

METHOD = SimpleNamespace(name="fake")


def view(side: int = 16, windows: int = 0) -> View:
    boxes = tuple((0, 0, side, side) for _ in range(windows)) or None
    return View("slide" if windows else "whole", (side, side), (side, side) if windows else None, boxes)


# --- batches -------------------------------------------------------------------------------------------------------------


class Model:
    """Notes the batches that it gets; holds the first one until it is released."""

    def __init__(self, fail=()):
        self.batches, self.release, self.fail = [], threading.Event(), fail

    def __call__(self, batch):
        self.batches.append([one.image for one in batch])
        self.release.wait(10)
        if set(self.batches[-1]) & set(self.fail):
            raise ValueError("a bad image")
        return [f"features of {one.image}" for one in batch]


def run_batches(asked, *, fail=(), size=3, seconds=0.0, cancel=()):
    """Ask for images while the model works on the first: (batches, results, dropped)."""
    model, dropped = Model(fail), []

    async def run():
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(model, thread, size=size, seconds=seconds, dropped=dropped.append)
            first = asyncio.ensure_future(batcher.encode("first", view(), METHOD))
            while not model.batches:
                await asyncio.sleep(0.001)
            tasks = {name: asyncio.ensure_future(batcher.encode(name, v, METHOD)) for name, v in asked.items()}
            await asyncio.sleep(0.01)
            for name in cancel:
                tasks[name].cancel()
            model.release.set()
            results = await asyncio.gather(first, *tasks.values(), return_exceptions=True)
            await batcher.close()
            return results

    return model.batches, asyncio.run(run()), dropped


def test_requests_that_gather_while_the_model_works_share_batches_of_one_size():
    asked = {"a": view(16), "b": view(24), "c": view(16), "d": view(16), "e": view(16)}
    batches, results, _ = run_batches(asked)
    assert batches == [["first"], ["a", "c", "d"], ["b"], ["e"]]
    assert results == [f"features of {name}" for name in ("first", "a", "b", "c", "d", "e")]


def test_windows_count_in_a_batch():
    asked = {"a": view(16, 2), "b": view(16, 2), "c": view(16, 1), "d": view(16, 5)}
    assert run_batches(asked)[0] == [["first"], ["a", "c"], ["b"], ["d"]]


def test_a_request_whose_client_left_is_dropped_before_it_is_computed():
    batches, results, dropped = run_batches({"a": view(), "b": view()}, cancel=["a"])
    assert batches == [["first"], ["b"]]
    assert isinstance(results[1], asyncio.CancelledError)
    assert sum(dropped) == 1


def test_one_bad_image_does_not_fail_the_others():
    batches, results, _ = run_batches({"a": view(), "b": view()}, fail=["a"])
    assert batches == [["first"], ["a", "b"], ["a"], ["b"]]
    assert isinstance(results[1], ValueError)
    assert results[2] == "features of b"


def test_a_free_model_waits_a_moment_for_others():
    async def run(seconds):
        model = Model()
        model.release.set()
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(model, thread, size=2, seconds=seconds)
            first = asyncio.ensure_future(batcher.encode("a", view(), METHOD))
            await asyncio.sleep(0.02)
            await asyncio.gather(first, batcher.encode("b", view(), METHOD))
            await batcher.close()
        return model.batches

    assert asyncio.run(run(5)) == [["a", "b"]]  # the batch is full: nobody waits for five seconds
    assert asyncio.run(run(0)) == [["a"], ["b"]]


# --- encoded images ------------------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def features(count: int) -> ImageFeatures:
    return ImageFeatures(torch.zeros(1, 1, 1, count), (5, 7))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def sessions(clock):
    return Sessions(count=3, nbytes=1000, seconds=10, clock=clock)


def add(sessions, floats=10, upload=b"12345"):
    return sessions.add(upload, (5, 7), (), ("m", "whole"), features(floats))


def test_the_least_recently_used_image_goes_first(sessions):
    first, second, third = (add(sessions) for _ in range(3))
    sessions.get(first.id)
    add(sessions)
    assert sessions.get(first.id) is first
    assert sessions.get(third.id) is third
    with pytest.raises(Problem, match="no encoded image"):
        sessions.get(second.id)


def test_an_unused_image_expires_and_use_prolongs(sessions, clock):
    used, unused = add(sessions), add(sessions)
    clock.now = 9
    sessions.get(used.id)
    clock.now = 10
    with pytest.raises(Problem):
        sessions.get(unused.id)
    assert sessions.get(used.id) is used
    assert (len(sessions), sessions.nbytes) == (1, used.nbytes)
    clock.now = 20
    assert sessions.expire() == 1
    assert (len(sessions), sessions.nbytes) == (0, 0)


def test_memory_is_counted_and_bounded(sessions):
    first = add(sessions, floats=100)
    assert sessions.nbytes == first.nbytes == 405 == 5 + features_bytes(features(100))
    second = add(sessions, floats=100)
    sessions.put(second, ("m", "slide"), features(100))
    assert sessions.nbytes == second.nbytes == 805
    with pytest.raises(Problem) as refused:
        add(sessions, floats=300)
    assert refused.value.status_code == 413
    sessions.remove(second.id)
    sessions.put(second, ("m", "other"), features(10))  # it went while it was being encoded
    assert (len(sessions), sessions.nbytes) == (0, 0)


def test_ids_cannot_be_guessed(sessions):
    ids = {add(sessions).id for _ in range(50)}
    assert len(ids) == 50
    assert min(map(len, ids)) >= 24


# --- budgets -------------------------------------------------------------------------------------------------------------


def test_holders_wait_for_room_in_order():
    order = []

    async def hold(budget, name, amount, seconds):
        async with budget.holding(amount):
            order.append(name)
            assert budget.used <= max(budget.total, amount)
            await asyncio.sleep(seconds)

    async def run():
        budget = Budget(10)
        tasks = [
            asyncio.ensure_future(hold(budget, *one))
            for one in (("a", 6, 0.02), ("larger than all", 25, 0.01), ("b", 5, 0.01), ("left", 5, 1), ("c", 5, 0.01))
        ]
        await asyncio.sleep(0)
        tasks[3].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return budget.used

    assert asyncio.run(run()) == 0
    assert order == ["a", "larger than all", "b", "c"]
