"""Classes by example: regions to patches, patches to vectors, and joining them with words."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import blobs

from talk2dino import Segmenter
from talk2dino.errors import InputError, PromptError
from talk2dino.stages.upsample import upsample
from talk2dino.types import ImageFeatures, TextFeatures
from talk2dino.words.examples import Seen, calibration_of, cluster_examples, embed_examples, patch_coverage, region_mask
from talk2dino.world import CLASS_NAMES, render, sample_scene

SIZE = (35, 77)  # of 5 x 11 patches of 7 pixels


@pytest.fixture(scope="module")
def micro():
    return Segmenter.from_pretrained("micro", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def scenes():
    return [render(sample_scene(30_000_100 + i, aspect=1.3, things=3), 131) for i in range(4)]


def features(grid=(5, 11), size=SIZE, **windows):
    count = len(windows.get("boxes", (None,)))
    generator = torch.Generator().manual_seed(3)
    return ImageFeatures(torch.randn(count, *grid, 13, generator=generator), size, **windows)


# --- regions -------------------------------------------------------------------------------------------------------------


def test_a_box_a_point_and_a_mask_of_the_same_pixels_are_one_region():
    mask = np.zeros(SIZE, dtype=bool)
    mask[3:17, 5:29] = True
    assert np.array_equal(region_mask((5, 3, 29, 17), SIZE), mask)
    assert np.array_equal(region_mask([5.4, 3.9, 28.1, 16.5], SIZE), mask)  # every pixel that the box touches
    assert np.array_equal(region_mask(mask.astype(np.uint8) * 255, SIZE), mask)
    assert np.array_equal(region_mask(torch.from_numpy(mask), SIZE), mask)
    assert np.argwhere(region_mask((76.9, 0), SIZE)).tolist() == [[0, 76]]


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (np.zeros(SIZE, dtype=bool), "the mask has no pixels"),
        (np.ones((77, 35), dtype=bool), "the mask has 35 x 77 pixels, but the image has 77 x 35"),
        ((5, 3, 5, 17), "the box \\(5, 3, 5, 17\\) has no pixels: x0 must be less"),
        ((5, 3, 78, 17), "reaches outside the image of 77 x 35"),
        ((-1, 3, 8, 17), "reaches outside the image"),
        ((77, 3), "the point \\(77, 3\\) is outside the image of 77 x 35"),
        ((1, 2, 3), "must be a mask"),
        ((1, float("nan")), "must be a mask"),
        ("5,3,29,17", "must be a mask"),
        (None, "must be a mask"),
    ],
)
def test_regions_that_are_refused(region, message):
    with pytest.raises(InputError, match=message):
        region_mask(region, SIZE)


def test_coverage_of_whole_images_is_the_share_of_each_patch():
    mask = np.random.default_rng(1).random(SIZE) < 0.4
    expected = mask.reshape(5, 7, 11, 7).mean((1, 3))
    assert np.allclose(patch_coverage(mask, features())[0], expected, atol=1e-6)


def test_coverage_keeps_the_area_when_patches_cut_pixels():
    mask = region_mask((9, 5, 41, 30), SIZE)
    shares = patch_coverage(mask, features(grid=(3, 13)))
    assert float(shares.mean()) == pytest.approx(mask.mean(), abs=1e-6)
    assert float(shares.max()) <= 1 + 1e-6


def test_coverage_of_windows_is_that_of_their_part_of_the_image():
    boxes = ((0, 0, 70, 70), (0, 42, 70, 112), (0, 84, 70, 154))  # of a canvas twice as large as the image
    mask = np.random.default_rng(2).random(SIZE) < 0.4
    shares = patch_coverage(mask, features(grid=(5, 5), boxes=boxes, canvas=(70, 154)))
    large = mask.repeat(2, 0).repeat(2, 1)
    for share, (top, left, bottom, right) in zip(shares, boxes, strict=True):
        assert np.allclose(share, large[top:bottom, left:right].reshape(5, 14, 5, 14).mean((1, 3)), atol=1e-6)


def embed(examples, **options):
    given = {"per_class": 1, "encode": None, "compared": lambda image: image.patches, "threshold": 0.3}
    return embed_examples(examples, None, **{**given, **options})


def test_the_vector_is_the_mean_of_the_patches_that_are_half_inside():
    found = features()
    mask = np.zeros(SIZE, dtype=bool)
    mask[:7, :7] = mask[:7, 7:11] = mask[7:14, :3] = True  # the whole of (0, 0), 4/7 of (0, 1), 3/7 of (1, 0)
    text = embed({"part": [(found, mask)]})
    unit = F.normalize(found.patches[0], dim=-1)
    torch.testing.assert_close(text.embeddings[0], F.normalize(unit[0, 0] + unit[0, 1], dim=0))


def test_a_region_smaller_than_a_patch_takes_the_patch_that_it_is_in():
    found = features()
    text = embed({"part": [(found, (29, 15))]})
    torch.testing.assert_close(text.embeddings[0], F.normalize(found.patches[0, 2, 4], dim=0))


def test_calibrated_scores_lie_around_the_threshold():
    found = features()
    mask = np.zeros(SIZE, dtype=bool)
    mask[:14] = True
    text = embed({"part": [(found, mask)], "dot": [(found, (60, 30))]})
    unit = F.normalize(found.patches[0], dim=-1)
    scores = unit @ text.embeddings[0] * text.calibration[0, 0] + text.calibration[0, 1]
    inside, outside = float(scores[:2].mean()), float(scores[2:].mean())
    assert (inside + outside) / 2 == pytest.approx(0.3, abs=1e-5)
    assert inside - outside <= 0.3 + 1e-5
    scores = unit @ text.embeddings[1] * text.calibration[1, 0] + text.calibration[1, 1]  # of one patch: wide apart
    assert float(scores[4, 8]) == pytest.approx(0.45, abs=1e-5)
    assert embed({"part": [(found, mask)]}, threshold=None).calibration is None


def test_examples_that_cover_whole_images_are_calibrated_too():
    everything = np.ones(SIZE, dtype=bool)
    found = features()
    alone = embed({"all": [(found, everything)]})
    own = float((F.normalize(found.patches[0], dim=-1) @ alone.embeddings[0]).mean())
    assert own * alone.calibration[0, 0] + alone.calibration[0, 1] == pytest.approx(0.45, abs=1e-5)
    row = torch.tensor([1.0, 0, 0])
    rows = [Seen(row, row, None), Seen(row, row, torch.tensor([0.2, 0, 0])), Seen(row, row, torch.tensor([0.4, 0, 0]))]
    slope, offset = calibration_of(rows, 0.3)[0].tolist()
    assert (slope, slope * 0.3 + offset) == pytest.approx((0.3 / 0.7, 0.15))


def test_unlike_examples_get_an_embedding_each_and_like_ones_are_averaged():
    points, labels = blobs(3, 5, noise=0.05)
    seen = [Seen(point, point, None) for point in points]
    assert len(cluster_examples(seen, 1)) == 1
    found = torch.stack([one.vector for one in cluster_examples(seen, 4)])
    means = torch.stack([F.normalize(points[labels == i].mean(0), dim=0) for i in range(3)])
    assert found.shape == (3, 13)
    assert torch.allclose((found @ means.T).amax(1), torch.ones(3), atol=1e-5)
    assert len(cluster_examples(seen[:5], 4)) == 1


# --- joining with words --------------------------------------------------------------------------------------------------


def text(names, rows, negative=0, **more):
    return TextFeatures(tuple(names), F.normalize(torch.tensor(rows, dtype=torch.float32), dim=-1), negative, **more)


def test_joined_classes_keep_negatives_last_and_average_what_both_have():
    words = text(["sky", "car", "mud"], [[1, 0, 0], [0, 1, 0], [0, 0, 1]], 1, notes=("a note",))
    examples = text(["bolt", "car", "glare"], [[1, 1, 0], [0, 0, 1], [1, 0, 1]], 1)
    both = words + examples
    assert (both.names, both.negative, both.counts) == (("sky", "car", "bolt", "mud", "glare"), 2, ())
    torch.testing.assert_close(both.embeddings[1], F.normalize(torch.tensor([0.0, 1, 1]), dim=0))
    torch.testing.assert_close(both.embeddings[2], examples.embeddings[0])
    assert both.notes == ("a note", "averaged what both sides give for: car")


def test_joined_classes_with_several_embeddings_keep_all_of_them():
    words = text(["sky", "car"], [[1, 0, 0], [0, 1, 0]])
    examples = text(["car", "bolt"], [[0, 0, 1], [1, 1, 0], [1, 0, 1]], counts=(2, 1))
    both = words + examples
    assert (both.names, both.counts, both.embeddings.shape) == (("sky", "car", "bolt"), (1, 3, 1), (5, 3))
    torch.testing.assert_close(both.rows()[1], torch.cat([words.embeddings[1:], examples.embeddings[:2]]))


def test_a_class_of_words_and_examples_has_the_average_of_both_scores():
    words = text(["sky", "car"], [[1, 0, 0], [0, 1, 0]])
    examples = text(["car"], [[0, 1, 1]], calibration=torch.tensor([[0.5, 0.1]]))
    both = words + examples
    patch = F.normalize(torch.tensor([0.3, 0.5, 0.7]), dim=0)
    cosines = both.embeddings @ patch * both.calibration[:, 0] + both.calibration[:, 1]
    torch.testing.assert_close(cosines[0], patch @ words.embeddings[0])
    torch.testing.assert_close(
        cosines[1], (patch @ words.embeddings[1] + 0.5 * patch @ examples.embeddings[0] + 0.1) / 2
    )
    torch.testing.assert_close((examples + words).embeddings[0], both.embeddings[1])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (text(["bolt"], [[1, 0, 0]], space="clip-dense:1"), "weights or methods differ"),
        (text(["bolt"], [[1, 0]]), "weights or methods differ"),
        (text(["sky"], [[1, 0, 0]], 1), "sky: a name cannot be both"),
        (text(["bolt"], [[1, 0, 0]], clip=torch.ones(1, 7)), "with and without CLIP"),
    ],
)
def test_what_cannot_be_joined(other, message):
    with pytest.raises(InputError, match=message):
        text(["sky"], [[1, 0, 0]], space="talk2dino:1") + other


# --- with a model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["whole", "square", "slide"])
@pytest.mark.parametrize("method", ["talk2dino", "clip-dense"])
def test_an_object_is_found_again_by_example(micro, scenes, method, mode):
    segmenter = micro.with_method(method)
    scene, other = scenes[0], scenes[1]
    named = {CLASS_NAMES[i]: [(scene.image, scene.labels == i)] for i in np.unique(scene.labels)}
    examples = segmenter.encode_examples(named, mode=mode)
    assert examples.space == segmenter.encode_text(["sky"]).space
    result = segmenter.segment(scene.image, examples, mode=mode)
    truth = np.array([result.names.index(CLASS_NAMES[i]) if CLASS_NAMES[i] in named else -1 for i in range(16)])
    assert (result.labels == truth[scene.labels]).mean() > 0.8
    assert segmenter.segment(other.image, examples, mode=mode).labels.shape == other.labels.shape


def test_an_encoded_image_serves_as_an_example_and_gives_the_same_vector(micro, scenes):
    box = (10, 20, 60, 90)
    once = micro.encode_examples({"part": [(micro.encode_image(scenes[2].image), box)]})
    again = micro.encode_examples({"part": [(scenes[2].image, box)]})
    torch.testing.assert_close(once.embeddings, again.embeddings)
    patches = F.normalize(micro.encode_image(scenes[2].image).patches[0], dim=-1)
    assert float((patches @ once.embeddings[0]).max()) > 0.9


def test_the_best_of_several_embeddings_decides(micro, scenes):
    """Two unlike surfaces under one name: with an embedding each, both are found."""
    pixels = [(scene.image, scene.labels == scene.labels[r, 5]) for scene in scenes for r in (3, -3)]
    several = micro.encode_examples({"surface": pixels}, per_class=3)
    assert several.counts
    assert 2 <= several.counts[0] <= 3
    words = micro.encode_text(["ball"])
    features = micro.encode_image(scenes[0].image)
    [together] = micro.decode(features, words + several, return_scores=True)
    each = TextFeatures(tuple("abc"[: several.counts[0]]), several.embeddings, calibration=several.calibration)
    single = micro.method.score(features, each, clean=False)
    best = upsample(single.amax(0)[None, None], features.pixels.shape[2:])[0]
    expected = F.interpolate(best[None], scenes[0].labels.shape, mode="bilinear", align_corners=False)[0, 0]
    assert together.scores.shape[0] == 2
    assert np.abs(together.scores[1] - expected.numpy()).max() < 1e-5


def test_negative_examples_become_background(micro, scenes):
    scene = scenes[0]
    stuff = int(np.bincount(scene.labels.ravel()).argmax())
    others = [name for i, name in enumerate(CLASS_NAMES) if i != stuff]
    unwanted = micro.encode_examples({}, negative={"this": [(scene.image, scene.labels == stuff)]})
    result = micro.segment(scene.image, micro.encode_text(others) + unwanted)
    assert (result.names[0], result.background) == ("background", 0)
    assert (result.labels[scene.labels == stuff] == 0).mean() > 0.8
    with pytest.raises(InputError, match="only negative classes"):
        micro.segment(scene.image, unwanted)


@pytest.mark.parametrize(
    ("examples", "error", "message"),
    [
        ({}, InputError, "no examples were given"),
        (["bolt"], InputError, "must map each class to a list of \\(image, region\\)"),
        ({"bolt": []}, InputError, "'bolt' must be a list of at least one"),
        ({"bolt": "photo.jpg"}, InputError, "'bolt' must be a list of at least one"),
        ({"bolt": [(0, 0, 5, 5)]}, InputError, "'bolt' must be a pair \\(image, region\\)"),
        ({3: [("a.png", (0, 0))]}, PromptError, "must be text"),
        ({"bolt": [(np.zeros((30, 40, 3), np.uint8), (0, 0, 50, 20))]}, InputError, "example of 'bolt': the box"),
    ],
)
def test_examples_that_are_refused(micro, examples, error, message):
    with pytest.raises(error, match=message):
        micro.encode_examples(examples)


def test_wrong_numbers_of_embeddings_and_methods_without_classes(micro):
    with pytest.raises(InputError, match="per_class must be a whole number from 1 to 64; got 0"):
        micro.encode_examples({"bolt": [("a.png", (0, 0))]}, per_class=0)
    with pytest.raises(InputError, match="dino-clusters has no named classes"):
        micro.with_method("dino-clusters").encode_examples({"bolt": [("a.png", (0, 0))]})


def test_examples_can_stand_beside_words(micro, scenes):
    """One example among fifteen words: what it names is found, and the words keep their pixels."""
    scene = scenes[0]
    stuff = int(np.bincount(scene.labels.ravel()).argmax())
    words = micro.encode_text([name for i, name in enumerate(CLASS_NAMES) if i != stuff])
    both = words + micro.encode_examples({"it": [(scene.image, scene.labels == stuff)]})
    result = micro.segment(scene.image, both)
    found = result.labels == result.names.index("it")
    assert found[scene.labels == stuff].mean() > 0.8
    assert found[scene.labels != stuff].mean() < 0.2
    for other in scenes[1:]:
        if stuff not in other.labels:
            unlike = micro.segment(other.image, both)
            assert (unlike.labels == unlike.names.index("it")).mean() < 0.1
