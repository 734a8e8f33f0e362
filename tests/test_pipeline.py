"""The one pipeline: views, order, thresholds, and features that do not belong together."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from talk2dino import Segmenter
from talk2dino.errors import InputError, Talk2DinoError
from talk2dino.pipeline import plan_view, read_options, read_thresholds
from talk2dino.stages.refine import refine
from talk2dino.world import CLASS_NAMES, render, sample_scene

NAMES = list(CLASS_NAMES)


@pytest.fixture(scope="module")
def micro():
    return Segmenter.from_pretrained("micro", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def image():
    return render(sample_scene(30_000_001, aspect=1.3, things=3), 150).image


def test_views_of_each_mode(micro):
    whole = plan_view((97, 131), "whole", micro.method)
    assert (whole.mode, whole.seen, whole.boxes) == ("whole", (128, 176), None)
    assert plan_view((97, 131), "square", micro.method).seen == (128, 128)
    slide = plan_view((97, 131), "slide", micro.method)
    assert (slide.seen, slide.canvas) == ((128, 128), (128, 173))
    assert slide.boxes == ((0, 0, 128, 128), (0, 45, 128, 173))
    # The protocol's longest side is 2048 for windows of 448, hence 585 for windows of 128.
    assert plan_view((100, 1000), "slide", micro.method).canvas == (59, 585)


def test_a_banner_goes_through_windows_that_keep_its_shape(micro):
    banner = np.zeros((60, 2000, 3), np.uint8)
    assert plan_view((60, 960), "whole", micro.method).mode == "whole"  # 16 to 1 are 256 patches
    view = plan_view((60, 2000), "whole", micro.method)
    assert view.mode == "slide"
    assert view.canvas == (61, 2048)  # a short side of 128 would make it 4267 long; 16 windows are the limit
    result = micro.segment(banner, ["sky", "sand"])
    assert result.labels.shape == (60, 2000)
    assert any("too elongated" in note for note in result.info["notes"])
    assert result.info["mode"] == "slide"


def test_results_come_in_the_order_of_the_images(micro):
    """Sizes are grouped for the forward pass; 1, 3 and 1, 2, 1 of a kind must not change places."""
    sizes = [(60, 60), (48, 60), (60, 60), (60, 48), (48, 60)]
    images = [np.full((*size, 3), 40 * i, np.uint8) for i, size in enumerate(sizes)]
    together = micro.segment_batch(images, NAMES, return_scores=True, batch_size=2)
    for one, result in zip(images, together, strict=True):
        assert result.labels.shape == one.shape[:2]
        np.testing.assert_allclose(result.scores, micro.segment(one, NAMES, return_scores=True).scores, atol=1e-5)


def test_cleaning_is_on_exactly_with_a_background(micro, image):
    scores = {
        key: micro.segment(image, NAMES, return_scores=True, **call).scores
        for key, call in {
            "plain": {}, "background": {"background": 0.5}, "cleaned": {"background": 0.5, "clean": True},
            "uncleaned": {"background": 0.5, "clean": False},
        }.items()
    }  # fmt: skip
    np.testing.assert_array_equal(scores["background"], scores["cleaned"])
    np.testing.assert_array_equal(scores["uncleaned"][1:], scores["plain"])
    assert np.abs(scores["cleaned"][1:] - scores["plain"]).max() > 1e-3


def test_the_background_score_is_the_smallest_threshold(micro, image):
    result = micro.segment(image, NAMES[:3], background={NAMES[0]: 0.7, NAMES[1]: 0.45}, return_scores=True)
    assert result.scores.shape == (4, *image.shape[:2])
    np.testing.assert_array_equal(result.scores[0], np.float32(0.45))
    negative = micro.segment(image, NAMES[:3], negative=NAMES[3:], return_scores=True)
    assert negative.scores.shape == (4, *image.shape[:2])
    np.testing.assert_array_equal(negative.scores[0], np.float32(0))


def test_thresholds_by_class(micro):
    method, names = micro.method, NAMES[:3]
    assert read_thresholds(method, names, None) is None
    assert read_thresholds(method, names, False) is None
    standard = pytest.approx([method.threshold] * 3)
    assert read_thresholds(method, names, True).tolist() == standard
    assert read_thresholds(method, names, {}).tolist() == standard
    assert read_thresholds(method, names, 0).tolist() == [0, 0, 0]
    assert read_thresholds(method, names, np.float32(1)).tolist() == [1, 1, 1]
    one = read_thresholds(method, names, {names[1]: 0.25}).tolist()
    assert one == pytest.approx([method.threshold, 0.25, method.threshold])
    for wrong in (-0.01, 1.01, "0.5", {names[0]: True}, {names[0]: None}):
        with pytest.raises(InputError, match=r"a background threshold of talk2dino must be from 0 to 1; got "):
            read_thresholds(method, names, wrong)
    with pytest.raises(InputError, match=r"among the prompts: a, b, c, d, e$"):
        read_thresholds(method, names, dict.fromkeys("abcdefg", 0.5))


def test_methods_without_a_threshold_or_cleaning_say_so(micro):
    clusters, dense = micro.with_method("dino-clusters"), micro.with_method("clip-dense")
    with pytest.raises(InputError, match="makes segments without classes: it has no background threshold"):
        read_thresholds(clusters.method, ["a"], 0.5)
    with pytest.raises(InputError, match="clip-dense has no background cleaning: leave clean off"):
        read_options(dense.method, ["a"], None, True, False, False)
    options = read_options(dense.method, ["a"], 0.3, None, 1, True)
    assert (options.clean, options.refine, options.return_scores) == (False, True, True)
    object.__setattr__(dense.method, "threshold", None)
    with pytest.raises(InputError, match=r"no tuned background threshold for the model micro: give a number"):
        read_thresholds(dense.method, ["a"], True)
    assert read_thresholds(dense.method, ["a"], {"a": 0.25}).tolist() == [0.25]


def test_what_a_result_says_about_itself(micro, image):
    result = micro.segment(image, NAMES[:2], negative=["water"], background={NAMES[0]: 0.6}, mode="slide", refine=True)
    info = result.info
    assert info["thresholds"] == [micro.method.threshold, 0.6]
    assert (info["method"], info["mode"], info["cleaning"], info["refined"]) == (
        "talk2dino",
        "slide",
        "published",
        True,
    )
    assert (info["dtype"], info["device"], info["engine"]) == ("float32", "cpu", "torch")
    assert (info["negative"], info["notes"], info["source"]) == (["water"], [], micro.config.source)
    assert info["seen"] == list(plan_view(image.shape[:2], "slide", micro.method).canvas)
    assert result.names == ("background", *NAMES[:2])
    plain = micro.segment(image, NAMES[:2]).info
    assert (plain["thresholds"], plain["cleaning"], plain["refined"], plain["negative"]) == (None, None, False, [])
    assert plain["seen"] == list(plan_view(image.shape[:2], "whole", micro.method).seen)


def test_a_batch_holds_at_least_one_image(micro, image):
    with pytest.raises(InputError, match="batch_size must be at least 1; got 0"):
        micro.segment_batch([image], ["sky"], batch_size=0)
    assert len(micro.segment_batch([image], ["sky"], batch_size=1)) == 1
    assert micro.segment_batch([], ["sky"]) == []
    with pytest.raises(InputError, match="no image was given"):
        micro.encode_image([])


def test_refinement_needs_the_pixels(micro, image):
    features = replace(micro.encode_image(image), pixels=None)
    text = micro.encode_text(NAMES)
    np.testing.assert_array_equal(micro.decode(features, text)[0].labels, micro.segment(image, NAMES).labels)
    with pytest.raises(InputError, match="refinement needs the image's pixels"):
        micro.decode(features, text, refine=True)


def test_text_embeddings_have_length_one(micro):
    norms = micro.encode_text(NAMES).embeddings.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(16))


def test_small_windows_are_labelled_and_refined_at_their_own_size(micro):
    """An image whose canvas is lower than a window: maps go from the patch grid straight to the window's size."""
    image = render(sample_scene(30_000_009, aspect=9.0), 60).image
    view = plan_view(image.shape[:2], "slide", micro.method)
    assert view.canvas[0] < 128
    features = micro.encode_image(image, mode="slide")
    assert features.pixels.shape[2:] == (view.canvas[0], 128)
    assert features.grid == (16, 16)
    text = micro.encode_text(NAMES)
    found = micro.decode(features, text, refine=True, return_scores=True)[0].scores
    total, count = torch.zeros(16, *view.canvas), torch.zeros(view.canvas)
    for i, (top, left, bottom, right) in enumerate(view.boxes):
        maps = torch.sigmoid(torch.einsum("hwd,nd->nhw", F.normalize(features.patches[i], dim=-1), text.embeddings))
        maps = F.interpolate(maps[None], (bottom - top, right - left), mode="bilinear", align_corners=True)
        total[:, top:bottom, left:right] += refine(maps, features.pixels[i : i + 1])[0]
        count[top:bottom, left:right] += 1
    expected = F.interpolate((total / count)[None], image.shape[:2], mode="bilinear")[0].numpy()
    assert np.abs(found - expected).max() < 1e-4


def test_square_features_stay_square(micro, image):
    features = micro.encode_image(image, mode="square")
    [result] = micro.decode(features, micro.encode_text(NAMES))
    assert result.info["mode"] == "square"
    np.testing.assert_array_equal(result.labels, micro.segment(image, NAMES, mode="square").labels)


def test_negatives_beside_text_features_are_refused(micro, image):
    text = micro.encode_text(["ball"])
    with pytest.raises(InputError, match="give negative= to encode_text"):
        micro.segment_batch([image], text, negative=["sky"])


def test_words_and_patches_of_different_models_are_refused(micro, image, tmp_path):
    """Equal dimensions are not enough: the weights decide which words fit."""
    micro.save_pretrained(tmp_path / "other")
    other = Segmenter.from_pretrained(tmp_path / "other", dtype="float32", device="cpu")
    assert other.method.space == micro.method.space  # the same weights from another place
    with torch.no_grad():
        for weight in other.projection.parameters():
            weight.add_(0.01)
    other.towers._fingerprints.pop("projection", None)
    features, words = micro.encode_image(image), other.encode_text(NAMES)
    for first, second, segmenter in ((features, words, micro), (features, words, other)):
        with pytest.raises(InputError, match="encode them again with this segmenter"):
            segmenter.decode(first, second)
    dense = micro.with_method("clip-dense")
    with pytest.raises(InputError, match="text features were made by micro"):
        dense.segment(image, micro.encode_text(NAMES))
    own = replace(words, space="")  # embeddings of unknown origin are taken as they are
    assert micro.decode(features, own)[0].labels.shape == image.shape[:2]


def test_batches_of_encoded_images_decode_one_by_one(micro, image):
    several = micro.encode_image([image, image[:, ::-1].copy()])
    assert several.patches.shape[0] == 2
    text = micro.encode_text(NAMES)
    first, second = micro.decode(several, text)
    np.testing.assert_array_equal(first.labels, micro.segment(image, NAMES).labels)
    assert (first.labels != second.labels).any()


@pytest.mark.parametrize("method", ["clip-dense", "dino-clusters"])
def test_every_method_encodes_once_and_answers_often(micro, image, method):
    segmenter = micro.with_method(method)
    features = segmenter.encode_image(image)
    [decoded] = segmenter.decode(features, segmenter.encode_text(NAMES))
    np.testing.assert_array_equal(decoded.labels, segmenter.segment(image, NAMES).labels)


def test_the_segmenter_describes_itself(micro):
    assert repr(micro) == (
        "Segmenter('micro', method='talk2dino', images of 128 px in patches of 8, float32 on cpu, engine='torch')"
    )


def _segment_in_child(queue):
    try:
        _CHILD.segment(np.zeros((40, 40, 3), np.uint8), ["sky"])
        queue.put("done")
    except Talk2DinoError as error:
        queue.put(str(error))


def test_a_forked_child_says_why_it_cannot_segment(micro, image):
    """OpenMP's threads do not survive a fork: the child would wait for them for ever."""
    global _CHILD
    _CHILD = micro
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        micro.segment(image, ["sky"])
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        child = context.Process(target=_segment_in_child, args=(queue,))
        child.start()
        child.join(30)
        if child.exitcode is None:
            child.kill()
        assert child.exitcode == 0
        assert "spawn" in queue.get()
    finally:
        torch.set_num_threads(before)
