"""A plan of extract gives the store of one process."""

from __future__ import annotations

import pytest
from fakes import fake_encoders, make_folder, run_extract

from talk2dino.captions import open_source
from talk2dino.errors import InputError
from talk2dino.features.options import ExtractOptions
from talk2dino.scale.extract_job import merge_extracted, plan_extract
from talk2dino.scale.places import Place
from talk2dino.scale.reports import read_status
from talk2dino.scale.work import work


def test_shards_of_several_workers_are_the_store_of_one(tmp_path):
    folder = make_folder(tmp_path / "in")
    (folder / "0003.png").write_bytes(b"not a picture")
    expected = run_extract(open_source(folder), tmp_path / "one", max_skipped=0.5)
    options = ExtractOptions(
        out=tmp_path, sources=(folder,), max_skipped=0.5, records_per_shard=expected.records_per_shard,
        features=tuple(expected.features), size=expected.preprocessing["size"], batch_size=4,
    )  # fmt: skip
    place = Place(tmp_path / "plan")
    plan = plan_extract(place, options, encoders=fake_encoders())
    assert plan.images == 23
    seen = []
    work(
        place, worker=(2, 2), encoders=fake_encoders(), progress=lambda done, total, note="": seen.append((done, total))
    )
    with pytest.raises(InputError, match="3 of 5 shards are not finished"):
        merge_extracted(place, tmp_path / "merged")
    done = work(place, encoders=fake_encoders())
    assert (done.rows, done.failures) == (13, 1)
    assert seen[-1] == (10, 10)
    merged = merge_extracted(place, tmp_path / "merged")
    assert merged.counts == expected.counts
    for file in (tmp_path / "one").iterdir():
        if file.name != "manifest.json":
            assert (tmp_path / "merged" / file.name).read_bytes() == file.read_bytes(), file.name
    assert not list(tmp_path.glob(".merged*"))
    assert read_status(place).failed == 1


def test_a_source_that_changed(tmp_path):
    folder = make_folder(tmp_path / "in")
    place = Place(tmp_path / "plan")
    plan_extract(place, ExtractOptions(out=tmp_path, sources=(folder,), size=28), encoders=fake_encoders())
    (folder / "0001.txt").write_text("other words")
    with pytest.raises(InputError, match="the source changed since it was planned"):
        work(place, encoders=fake_encoders())
