"""Frames to steady labels: against single images, on films whose masks are known, and state that can be stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from talk2dino import Segmenter
from talk2dino.errors import InputError
from talk2dino.io.frames import frames_of
from talk2dino.pipeline import read_options
from talk2dino.steady import Carried, FrameSegmenter
from talk2dino.world import CLASS_NAMES
from talk2dino.world.films import render_film, sample_film


@pytest.fixture(scope="module")
def micro():
    return Segmenter.from_pretrained("micro", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def words(micro):
    return micro.encode_text(list(CLASS_NAMES))


@pytest.fixture(scope="module")
def film():
    """Images and labels of 16 frames with a cut in the middle."""
    drawn = list(render_film(sample_film(20_000_001, frames=16), 97, supersample=1, noise=0.05))
    return [one.image for one in drawn], np.stack([one.labels for one in drawn])


def labels(micro, words, images, **options):
    return np.stack([result.labels for _, result in micro.segment_video(images, words, **options)])


def flicker(found, truth):
    """Share of the pixels whose label changes where truth does not."""
    still = truth[1:] == truth[:-1]
    return (found[1:] != found[:-1])[still].mean()


@pytest.mark.parametrize("mode", ["whole", "slide", "square"])
def test_without_carrying_frames_are_segmented_as_images(micro, words, film, mode):
    images = film[0][:3]
    found = list(micro.segment_video(images, words, steady=False, mode=mode, refine=True, background=0.6, batch_size=2))
    expected = micro.segment_batch(images, words, mode=mode, refine=True, background=0.6)
    for number, ((frame, result), single) in enumerate(zip(found, expected, strict=True)):
        assert (frame.number, frame.seconds) == (number, number / 25)
        assert (result.labels == single.labels).mean() > 0.999  # batches of another size round differently
        assert result.names == single.names


def test_the_first_frame_is_that_of_a_single_image(micro, words, film):
    """The grid of cells has a cell at each patch, so interpolating it gives the same scores."""
    [(_, steady)] = micro.segment_video(film[0][:1], words, return_scores=True)
    single = micro.segment(film[0][0], words, return_scores=True)
    np.testing.assert_allclose(steady.scores, single.scores, atol=1e-5)


def test_masks_flicker_less_and_are_no_worse(micro, words, film):
    images, truth = film
    plain, steady = labels(micro, words, images, steady=False), labels(micro, words, images)
    assert flicker(steady, truth) < 0.6 * flicker(plain, truth)
    assert (steady == truth).mean() > (plain == truth).mean() - 0.002


def test_key_frames(micro, words, film):
    images, truth = film
    results = [result for _, result in micro.segment_video(images, words, keyframe_every=4)]
    encoded = [result.info["encoded"] for result in results]
    assert encoded == [i in (0, 4, 8, 12) for i in range(16)]
    every = labels(micro, words, images)
    found = np.stack([result.labels for result in results])
    assert (found == truth).mean() > (every == truth).mean() - 0.01
    held = np.stack([found[i - i % 4] for i in range(16)])  # what not moving the masks would give
    assert (found == truth).mean() > (held == truth).mean()


def test_a_cut_resets_and_is_encoded(micro, words, film):
    images, _ = film
    cut = images[5:11]  # the new shot begins at 3, between the key frames
    results = [result for _, result in micro.segment_video(cut, words, keyframe_every=5)]
    assert [result.info["encoded"] for result in results] == [True, False, False, True, False, False]
    single = micro.segment(cut[3], words)
    assert (results[3].labels == single.labels).mean() > 0.999


def frame_segmenter(micro, words, carried=None, **options):
    checked = read_options(micro.method, words.names, None, None, False, False)
    return FrameSegmenter(words, micro.method, checked, carried=carried, keyframe_every=3, batch_size=2, **options)


def test_a_stored_state_goes_on_as_if_nothing_had_happened(micro, words, film, tmp_path):
    frames = list(frames_of(film[0][:8], 25))
    whole = [result for _, result in frame_segmenter(micro, words)(frames)]
    first = frame_segmenter(micro, words)
    before = [result for _, result in first(frames[:5])]
    np.savez(tmp_path / "state.npz", **first.carried.arrays())
    with np.load(tmp_path / "state.npz") as arrays:
        second = frame_segmenter(micro, words, Carried.from_arrays(dict(arrays), torch.device("cpu")))
    after = [result for _, result in second(frames[5:])]
    assert [r.info["encoded"] for r in before + after] == [r.info["encoded"] for r in whole]
    for one, other in zip(before + after, whole, strict=True):
        assert (one.labels == other.labels).mean() > 0.9999


def test_what_is_refused(micro, words, film):
    with pytest.raises(InputError, match="keyframe_every must be at least 1"):
        micro.segment_video(film[0], words, keyframe_every=0)
    with pytest.raises(InputError, match="choose the images of an iterable yourself"):
        micro.segment_video(film[0], words, every=0.5)
    clusters = micro.with_method("dino-clusters")
    with pytest.raises(InputError, match="--no-steady"):
        FrameSegmenter(words, clusters.method, read_options(micro.method, words.names, None, None, False, False))
