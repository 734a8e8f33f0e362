"""A storage that fails now and then, and two runs at once."""

from __future__ import annotations

import threading

import pytest
from scale_helpers import results

from talk2dino.errors import DataError
from talk2dino.scale.places import ATTEMPTS, Place
from talk2dino.scale.work import Queue, work


class Flaky:
    """A file system that answers every tenth request with an error, and sometimes twice in a row."""

    def __init__(self, fs) -> None:
        self._fs, self.requests, self.errors = fs, 0, 0
        self.lock = threading.Lock()

    def __getattr__(self, name: str):
        found = getattr(self._fs, name)
        if name not in ("cat_file", "pipe_file", "exists", "ls"):
            return found

        def sometimes(*arguments, **options):
            with self.lock:
                self.requests += 1
                if self.requests % 10 in (0, 1):
                    self.errors += 1
                    raise OSError("503 Slow Down")
            return found(*arguments, **options)

        return sometimes


def test_errors_one_time_in_ten_change_nothing(planned, micro, monkeypatch):
    monkeypatch.setattr("talk2dino.scale.places.FIRST_WAIT", 0.001)
    whole, _ = planned("whole", shard_size=2)
    work(whole, segmenter=micro)
    place, _ = planned("flaky", shard_size=2)
    for folder in ("started", "results", "done"):
        place.fs.mkdirs(place.path(folder))
    place.fs, place.local = Flaky(place.fs), False
    assert work(place, segmenter=micro).rows == 11
    assert place.fs.errors >= 5
    assert results(whole) == results(Place(place.uri))


def test_a_storage_that_stays_away(tmp_path, monkeypatch):
    monkeypatch.setattr("talk2dino.scale.places.FIRST_WAIT", 0.001)
    place = Place(tmp_path)
    calls = []

    def away(path, **_):
        calls.append(path)
        raise OSError("connection refused")

    monkeypatch.setattr(place.fs, "cat_file", away)
    with pytest.raises(DataError, match=r"cannot read plan.json at .*: connection refused"):
        place.read("plan.json")
    assert len(calls) == ATTEMPTS


def test_two_runs_at_once_share_the_shards(planned, micro):
    whole, _ = planned("whole", shard_size=1)
    work(whole, segmenter=micro)
    place, _ = planned("both", shard_size=1)
    done = []
    runs = [
        threading.Thread(target=lambda: done.append(work(Place(place.uri), segmenter=micro, workers=1)))
        for _ in range(2)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert results(place) == results(whole)
    assert sum(one.shards for one in done) < 2 * 11, "each run did all of the work"


def test_started_shards_come_last(planned):
    place, plan = planned(shard_size=4)
    place.write_json("started/000000.json", {"attempts": 1, "worker": "another"})
    assert [shard.number for shard, _ in Queue(place, plan)] == [1, 2, 0]
    assert place.read_json("started/000000.json")["attempts"] == 2
