"""Many images from disk to disk: order, resuming, names, and what must not be lost."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from talk2dino import Segmenter
from talk2dino.errors import OutputError
from talk2dino.folder import JOURNAL, FolderOptions, result_names, run_folder
from talk2dino.io.lock import folder_lock
from talk2dino.words.prompts import read_prompts
from talk2dino.workers import LOOK_AHEAD, group
from talk2dino.world import render, sample_scene

NAMES = ["sky", "grass", "ball", "house"]


@pytest.fixture(scope="module")
def micro():
    return Segmenter.from_pretrained("micro", dtype="float32", device="cpu")


@pytest.fixture
def folder(tmp_path):
    """Five images of three sizes."""
    path = tmp_path / "images"
    path.mkdir()
    for i in range(5):
        image = Image.fromarray(render(sample_scene(40_000_000 + i), 96).image)
        image.resize(((96, 72), (72, 96), (95, 71))[i % 3]).save(path / f"{i}.png")
    return path


def options(folder: Path, out: Path, **values) -> FolderOptions:
    given = {"images": (str(folder),), "prompts": read_prompts(NAMES), "out": out, "save": ("palette",)} | values
    return FolderOptions(**given)


def stamps(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.labels.png")}


def test_several_workers_answer_in_order_and_as_one_by_one(micro, folder, tmp_path):
    (folder / "2b.png").write_bytes(b"no image")
    results = []
    several = run_folder(
        options(folder, tmp_path / "a", batch_size=2, workers=3), segmenter=micro, on_result=results.append
    )
    single = run_folder(options(folder, tmp_path / "b", batch_size=1, workers=1), segmenter=micro)
    assert (several.exit_code, several.done, len(several.failed)) == (3, 5, 1)
    assert single.done == 5
    assert [result.path.stem for result in results] == ["0", "1", "2", "2b", "3", "4"]
    assert "2b.png" in results[3].error
    for i in range(5):
        one, other = (np.asarray(Image.open(tmp_path / out / f"{i}.labels.png")) for out in "ab")
        assert one.shape == ((72, 96), (96, 72), (71, 95))[i % 3]
        assert (one != other).mean() <= 1e-3


def test_one_unreadable_image_does_not_fail_its_batch(micro, tmp_path):
    folder = tmp_path / "alike"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(render(sample_scene(i), 24, supersample=1).image).save(folder / f"{i}.png")
    content = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(
        content[: len(content) // 2]
    )  # the header can be read: it is batched with the others
    result = run_folder(options(folder, tmp_path / "out", batch_size=4), segmenter=micro)
    assert result.done == 3
    assert [failure.path.name for failure in result.failed] == ["1.png"]


def test_finished_images_are_skipped_until_something_changes(micro, folder, tmp_path):
    out = tmp_path / "out"
    first = run_folder(options(folder, out), segmenter=micro)
    assert (first.done, first.skipped) == (5, 0)
    before = stamps(out)
    assert run_folder(options(folder, out), segmenter=micro).skipped == 5
    assert stamps(out) == before
    # another time stamp of the image
    os.utime(folder / "2.png", ns=(1, 1))
    assert run_folder(options(folder, out), segmenter=micro).done == 1
    # one of the files is gone
    (out / "3.labels.png").unlink()
    assert run_folder(options(folder, out), segmenter=micro).done == 1
    # two kinds of files, of which one is missing
    both = options(folder, out, save=("palette", "json"))
    assert run_folder(both, segmenter=micro).done == 5
    (out / "1.json").unlink()
    assert run_folder(both, segmenter=micro).done == 1


@pytest.mark.parametrize(
    "change",
    [
        {"negative": read_prompts(["water"])}, {"prompts": read_prompts([*NAMES[:-1], "tree"])}, {"refine": True},
        {"prompts": read_prompts({"sky": ["heaven"], "grass": [], "ball": [], "house": []})}, {"background": 0.51},
        {"mode": "slide"}, {"thresholds": {"sky": 0.6}}, {"background": True, "clean": False},
    ],
)  # fmt: skip
def test_other_settings_do_the_work_again(micro, folder, tmp_path, change):
    run_folder(options(folder, tmp_path), segmenter=micro)
    assert run_folder(options(folder, tmp_path, **change), segmenter=micro).done == 5


def test_replaced_weights_do_the_work_again(micro, folder, tmp_path):
    """The folder's name is the same, its content is not."""
    model = micro.save_pretrained(tmp_path / "model")
    call = options(folder, tmp_path / "out", model=str(model), dtype="float32", device="cpu")
    assert run_folder(call).done == 5
    assert run_folder(call).skipped == 5
    other = Segmenter.from_pretrained(model, dtype="float32", device="cpu")
    with torch.no_grad():
        other.projection.layers[0].bias[0] += 0.5
    other.save_pretrained(model)
    assert run_folder(call).done == 5


def test_a_damaged_line_of_the_journal_costs_one_image(micro, folder, tmp_path):
    run_folder(options(folder, tmp_path), segmenter=micro)
    journal = tmp_path / JOURNAL
    lines = journal.read_text().splitlines()
    assert len(lines) == 5
    lines[1] = lines[1][:-4] + "}"
    journal.write_text("\n".join(lines) + '\n{"result": "half')
    assert run_folder(options(folder, tmp_path), segmenter=micro).done == 1
    assert run_folder(options(folder, tmp_path), segmenter=micro).done == 0


def test_two_folders_with_equal_names_keep_apart(micro, folder, tmp_path):
    second, out = tmp_path / "second", tmp_path / "out"
    second.mkdir()
    Image.fromarray(render(sample_scene(7), 48).image).save(second / "0.png")
    run_folder(options(folder, out), segmenter=micro)
    before = stamps(out)
    assert run_folder(options(second, out), segmenter=micro).done == 1
    after = stamps(out)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"0.png.labels.png"}
    assert run_folder(options(second, out), segmenter=micro).skipped == 1


def test_names_of_results(tmp_path):
    paths = [tmp_path / name for name in ("a/x.png", "a/x.jpg", "b/x.png", "c/d/b_x.png", "e/b/x.png")]
    names = result_names(paths)
    assert list(names.values())[:4] == ["x", "x.jpg", "x.png", "b_x"]
    assert len(set(names.values())) == 5
    records = [{"result": name, "source": os.path.abspath(path)} for path, name in names.items()]
    assert result_names(paths[::-1], records) == dict(reversed(names.items()))  # whatever the order, the same names


def test_results_of_an_earlier_run_are_not_segmented(micro, folder):
    first = run_folder(options(folder, folder, save=("overlay", "palette")), segmenter=micro)
    again = run_folder(options(folder, folder, save=("overlay", "palette")), segmenter=micro)
    assert (first.done, again.done, again.skipped) == (5, 0, 5)


def test_a_second_run_into_the_same_folder_is_refused(micro, folder, tmp_path):
    holding, release = threading.Event(), threading.Event()

    def hold():
        with folder_lock(tmp_path / "out"):
            holding.set()
            release.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    holding.wait(10)
    try:
        with pytest.raises(OutputError, match="another run is writing"):
            run_folder(options(folder, tmp_path / "out"), segmenter=micro)
    finally:
        release.set()
        holder.join()
    assert run_folder(options(folder, tmp_path / "out"), segmenter=micro).done == 5


def test_leftovers_of_a_killed_run_are_swept(micro, folder, tmp_path):
    leftover = tmp_path / ".0.labels.png.0123abcd.tmp.png"
    leftover.write_bytes(b"half")
    os.utime(leftover, (time.time() - 10_000,) * 2)
    run_folder(options(folder, tmp_path), segmenter=micro)
    assert not leftover.exists()


def test_a_name_that_is_not_utf8(micro, folder, tmp_path):
    strange = os.fsdecode(b"caf\xe9.png")
    os.rename(folder / "0.png", folder / strange)
    seen = []
    result = run_folder(options(folder, tmp_path / "out"), segmenter=micro, on_result=seen.append)
    assert result.done == 5
    assert (tmp_path / "out" / os.fsdecode(b"caf\xe9.labels.png")).is_file()
    assert run_folder(options(folder, tmp_path / "out"), segmenter=micro).skipped == 5
    assert all(json.dumps(one.as_dict()) for one in seen)


def test_progress_counts_every_image(micro, folder, tmp_path):
    seen = []
    run_folder(
        options(folder, tmp_path), segmenter=micro, progress=lambda done, total, note="": seen.append((done, total))
    )
    assert seen == [(i, 5) for i in range(1, 6)]


def test_an_image_of_a_rare_size_does_not_hold_back_the_others():
    """Batches hold one key; a path waits for others with its key, but only for so many paths."""
    paths = [Path(str(n)) for n in range(100)]
    key = lambda path: (9, 9) if path == paths[0] else (int(str(path)) % 3, 7)  # noqa: E731
    found = list(group(paths, key, 4))
    assert sorted(path for batch in found for path in batch) == sorted(paths)
    assert all(len({key(path) for path in batch}) == 1 for batch in found)
    place = found.index([paths[0]])
    assert len([path for batch in found[:place] for path in batch]) <= LOOK_AHEAD * 4
    assert max(len(batch) for batch in found) == 4
