"""Videos from disk to disk: what is written, that it goes on where it was stopped, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from films import read_back, write_sound, write_video
from PIL import Image

from talk2dino import Segmentation, Segmenter
from talk2dino.errors import InputError
from talk2dino.folder import FolderOptions, run_folder
from talk2dino.io.rle import decode_rle
from talk2dino.video import run as video_run
from talk2dino.words.prompts import read_prompts
from talk2dino.world.films import render_film, sample_film

NAMES = ["sky", "grass", "water", "ball", "fish"]


@pytest.fixture(scope="module")
def micro():
    return Segmenter.from_pretrained("micro", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def frames():
    return [one.image for one in render_film(sample_film(20_000_003, frames=13), 53, supersample=1)]


@pytest.fixture
def film(frames, tmp_path):
    """13 frames of 53 x 80, odd in one direction, without loss."""
    return write_video(tmp_path / "film.mkv", frames)


def options(film: Path, out: Path, video: dict | None = None, **values) -> FolderOptions:
    given = {
        "images": (str(film),), "prompts": read_prompts(NAMES), "out": out, "save": ("overlay", "palette", "json"),
        "overlay": {"legend": False}, "video": video or {},
    }  # fmt: skip
    return FolderOptions(**(given | values))


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_the_three_results_agree(micro, film, frames, tmp_path):
    out, results = tmp_path / "out", []
    outcome = run_folder(options(film, out, {"keyframe_every": 4}), segmenter=micro, on_result=results.append)
    assert (outcome.exit_code, outcome.done, outcome.unit) == (0, 1, "video")
    expected = [result for _, result in micro.segment_video(film, NAMES, keyframe_every=4)]
    first, *rest = lines(out / "film.jsonl")
    assert (first["height"], first["width"], first["frames"]) == (53, 80, 13)
    assert [category["name"] for category in first["categories"]] == NAMES
    assert len(rest) == 13
    for number, (line, result) in enumerate(zip(rest, expected, strict=True)):
        assert (line["frame"], line["seconds"]) == (number, pytest.approx(number / 25, abs=1e-3))
        for annotation in line["annotations"]:
            mask = decode_rle(annotation["segmentation"])
            np.testing.assert_array_equal(mask, result.mask(NAMES[annotation["category_id"]]))
        stored = Segmentation.load(out / "film.labels" / f"{number:06d}.png")
        np.testing.assert_array_equal(stored.labels, result.labels)
    drawn, times = read_back(out / "film.overlay.mp4")
    assert len(drawn) == 13
    assert drawn[0].shape == (54, 80, 3)  # an even number of rows
    np.testing.assert_allclose(times, np.arange(13) / 25, atol=2e-3)
    assert np.abs(drawn[7][:53].astype(int) - np.asarray(expected[7].overlay(frames[7], legend=False))).mean() < 25
    [result] = results
    assert result.frames == 13
    assert sum(result.shares.values()) == pytest.approx(1)
    assert "even number of pixels" in " ".join(result.notes)
    again = run_folder(options(film, out, {"keyframe_every": 4}), segmenter=micro)
    assert (again.done, again.skipped) == (0, 1)


def test_a_stopped_run_goes_on_without_a_seam(micro, film, tmp_path, monkeypatch):
    monkeypatch.setattr(video_run, "PIECE_FRAMES", 5)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run_folder(options(film, whole), segmenter=micro)

    def stop(done: int, total: int, note: str = "") -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_folder(options(film, stopped), segmenter=micro, progress=stop)
    assert not list(stopped.glob("film.*"))  # nothing that looks finished
    reports = []
    run_folder(options(film, stopped), segmenter=micro, progress=lambda *report: reports.append(report[:2]))
    assert reports[:2] == [(5, 13), (6, 13)]
    found, expected = contents(stopped), contents(whole)
    assert found.keys() == expected.keys()
    assert {name for name in found if found[name] != expected[name]} <= {".talk2dino.jsonl"}
    assert not list(stopped.glob(".film.video"))


def test_other_settings_begin_again(micro, film, tmp_path, monkeypatch):
    monkeypatch.setattr(video_run, "PIECE_FRAMES", 5)

    def stop(done: int, total: int, note: str = "") -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_folder(options(film, tmp_path / "out"), segmenter=micro, progress=stop)
    reports = []
    changed = options(film, tmp_path / "out", {"keyframe_every": 3})
    run_folder(changed, segmenter=micro, progress=lambda *report: reports.append(report[0]))
    assert reports[0] == 1
    run_folder(changed, segmenter=micro, progress=lambda *report: pytest.fail("finished already"))


def test_sound_and_times_of_a_part(micro, frames, tmp_path):
    film = write_video(
        tmp_path / "tone.mp4", [frame[:52] for frame in frames] * 4, codec="libx264", pixels="yuv420p", tone=True
    )
    run_folder(options(film, tmp_path / "out", {"start": "0.4s", "end": 1.6, "every": "0.2s"}), segmenter=micro)
    numbers = [line["frame"] for line in lines(tmp_path / "out" / "tone.jsonl")[1:]]
    assert numbers == [10, 15, 20, 25, 30, 35]
    with av.open(str(tmp_path / "out" / "tone.overlay.mp4")) as result:
        video, sound = result.streams.video[0], result.streams.audio[0]
        assert float(video.duration * video.time_base) == pytest.approx(1.2, abs=0.02)
        assert sound.codec_context.name == "aac"
        assert float(sound.duration * sound.time_base) == pytest.approx(1.2, abs=0.1)
        blocks = list(result.decode(audio=0))
        samples = np.concatenate([block.to_ndarray()[0] for block in blocks])
        assert float(blocks[0].time) == pytest.approx(0, abs=0.07)  # a block of AAC lasts 0.064 s
    assert np.abs(samples).max() > 0.2
    _, times = read_back(tmp_path / "out" / "tone.overlay.mp4")
    np.testing.assert_allclose(times, [0, 0.2, 0.4, 0.6, 0.8, 1.0], atol=1e-3)


def test_sound_that_mp4_cannot_hold_is_encoded(micro, frames, tmp_path):
    path = tmp_path / "pcm.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 53, 80, "bgr0"
        sound = out.add_stream("pcm_s16le", rate=16000, layout="mono")
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        wave = (9000 * np.sin(np.arange(8000) / 6)).astype(np.int16)[None]
        block = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
        block.sample_rate, block.pts = 16000, 0
        out.mux(sound.encode(block))
        out.mux(stream.encode(None))
    run_folder(options(path, tmp_path / "out", save=("overlay",)), segmenter=micro)
    with av.open(str(tmp_path / "out" / "pcm.overlay.mp4")) as result:
        assert result.streams.audio[0].codec_context.name == "aac"
        assert sum(frame.samples for frame in result.decode(audio=0)) == pytest.approx(8000, abs=1100)


def test_times_that_vary_are_kept(micro, frames, tmp_path):
    times = [0, 40, 300, 310, 900]
    film = write_video(tmp_path / "v.mkv", frames[:5], times=times)
    run_folder(options(film, tmp_path / "out", save=("overlay",)), segmenter=micro)
    _, found = read_back(tmp_path / "out" / "v.overlay.mp4")
    np.testing.assert_allclose(found, np.array(times) / 1000, atol=1e-3)


def test_a_folder_of_frames_and_images_beside_a_video(micro, film, frames, tmp_path):
    shots = tmp_path / "shots"
    shots.mkdir()
    for number in range(3):
        Image.fromarray(frames[number]).save(shots / f"{number}.png")
    kind = {"save": ("palette",)}
    outcome = run_folder(options(shots, tmp_path / "a", {"as_video": True, "fps": 10}, **kind), segmenter=micro)
    assert (outcome.done, outcome.unit) == (1, "video")
    assert sorted(path.name for path in (tmp_path / "a" / "shots.labels").iterdir()) == [
        f"{i:06d}.png" for i in range(3)
    ]
    both = options(film, tmp_path / "b", images=(str(shots), str(film)), **kind)
    results = []
    outcome = run_folder(both, segmenter=micro, on_result=results.append)
    assert (outcome.done, outcome.unit) == (4, "input")
    assert [result.path.name for result in results] == ["0.png", "1.png", "2.png", "film.mkv"]
    assert (tmp_path / "b" / "0.labels.png").is_file()
    assert len(list((tmp_path / "b" / "film.labels").iterdir())) == 13


def test_a_bad_video_leaves_nothing_and_does_not_stop_the_next(micro, film, tmp_path):
    tone, text = write_sound(tmp_path / "tone.mp4"), tmp_path / "text.mp4"
    text.write_text("not a video, but long enough to look at")
    out = tmp_path / "out"
    outcome = run_folder(options(film, out, images=(str(tone), str(text), str(film))), segmenter=micro)
    assert outcome.exit_code == 3
    assert [result.error for result in outcome.failed] == [
        f"{tone} has no video: it holds only sound", f"{text} is not a video that can be read",
    ]  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == [
        ".talk2dino.jsonl", "film.jsonl", "film.labels", "film.overlay.mp4",
    ]  # fmt: skip


def test_kinds_and_times_that_videos_do_not_have(micro, film, tmp_path):
    with pytest.raises(InputError, match="cannot be saved as npz; accepted: overlay, palette, json"):
        run_folder(options(film, tmp_path / "out", save=("npz",)), segmenter=micro)
    outcome = run_folder(options(film, tmp_path / "out", {"start": 9}), segmenter=micro)
    assert "the last frame of the video is at 0.480 s" in (outcome.failed[0].error or "")
    assert outcome.exit_code == 1
    assert not (tmp_path / "out" / ".film.video").exists()
    with pytest.raises(ValueError, match="end must be later than start"):
        options(film, tmp_path / "out", {"start": 2, "end": 1})
