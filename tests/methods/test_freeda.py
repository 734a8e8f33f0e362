from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from talk2dino.errors import CheckpointError, DataError, InputError
from talk2dino.methods.freeda import (
    BENCHMARK_SUPERPIXELS,
    FreeDA,
    SmallStoreWarning,
    region_similarity,
    superpixel_weights,
    superpixels,
    usable_nearest,
)
from talk2dino.methods.prototype_build import build_prototypes, masked_features
from talk2dino.methods.prototype_sources import MaskedImage, Source, folder_source, world_source
from talk2dino.methods.prototypes import PrototypeStore

WORDS = ["sky", "ball", "grass", "water"]


@pytest.fixture(scope="session")
def folder(micro, tmp_path_factory):
    path = tmp_path_factory.mktemp("prototypes")
    build_prototypes(micro.towers, world_source(range(500_000, 500_040)), path)
    return path


def test_weights_equal_interpolating_every_mask():
    rng = np.random.default_rng(2)
    segments = np.kron(rng.integers(0, 9, (7, 11)), np.ones((5, 3), int))
    weights = superpixel_weights(segments, (4, 6))
    masks = torch.from_numpy(np.stack([segments == i for i in range(9)]).astype(np.float32))[None]
    expected = F.interpolate(masks, (4, 6), mode="bilinear", align_corners=True)[0]
    torch.testing.assert_close(weights, expected, atol=1e-5, rtol=0)
    assert superpixel_weights(segments, (1, 1)).sum() == pytest.approx(1)


def test_region_similarity_by_hand():
    torch.manual_seed(4)
    patches, prototypes = torch.randn(2, 3, 5), torch.randn(4, 5)
    segments = np.zeros((4, 6), int)
    segments[:, 3:] = 1
    segments[1, 1] = 2  # reaches no patch: corners lie at rows 0, 3 and columns 0, 2.5, 5
    found = region_similarity(patches, segments, prototypes)
    # superpixel 0: patch column 0, and half of column 1 (between pixel 2 of superpixel 0 and pixel 3 of superpixel 1)
    mean = (patches[:, 0] + 0.5 * patches[:, 1]).sum(0) / 3
    expected = torch.sigmoid(F.cosine_similarity(mean[None], prototypes))
    torch.testing.assert_close(found[:, 0, 0], expected)
    torch.testing.assert_close(found[:, 3, 2], expected)
    dense = torch.sigmoid(F.cosine_similarity(patches[None], prototypes[:, None, None], dim=-1))
    dense = F.interpolate(dense[None], (4, 6), mode="bilinear", align_corners=True)[0]
    torch.testing.assert_close(found[:, 1, 1], dense[:, 1, 1])


def test_superpixels_follow_edges(picture):
    image = np.zeros((41, 43, 3), np.uint8)
    image[:, 20:] = (250, 20, 20)
    segments = superpixels(image, sigma=0)
    assert segments.max() == 1
    assert (segments[:, :20] == segments[0, 0]).all()
    assert superpixels(picture).shape == (47, 71)


def test_score_is_the_published_mixture(micro, folder, picture):
    """0.8 local + 0.2 global, with the global part worked out from the model itself."""
    both = micro.with_method("freeda", prototypes=folder, nearest=9)
    local = micro.with_method("freeda", prototypes=folder, nearest=9, local_weight=1.0)
    resized = np.array(Image.fromarray(picture).resize((96, 96)))
    pixels = torch.from_numpy(resized).permute(2, 0, 1)[None].float()
    classes = both.encode_text(WORDS)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (pixels / 255 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    with torch.no_grad():
        image = micro.clip_vision.embed_image(normalised)
    text = F.normalize(micro.text.embed_classes([[word] for word in WORDS]), dim=-1)
    everywhere = F.normalize(image, dim=-1) @ text.T
    found, own = (one.method.score(one.method.encode_pixels(pixels), classes, clean=False) for one in (both, local))
    torch.testing.assert_close(found, 0.8 * own + 0.2 * everywhere[0, :, None, None], atol=1e-5, rtol=0)


def test_class_prototypes_are_means_of_the_nearest(micro, folder):
    store = PrototypeStore(folder)
    classes = micro.with_method("freeda", prototypes=folder, nearest=5).encode_text(["ball"])
    own = [i for i, word in enumerate(store.words) if word == "ball"]
    assert len(own) > 5  # of which each counts 5 / len(own)
    np.testing.assert_allclose(classes.embeddings[0], store.prototypes[own].mean(0), atol=1e-5)


def test_published_sizes_and_superpixels(micro, folder):
    """Windows of 448 are seen as 37 x 37 patches; every published configuration has its superpixels."""
    own = {"prototypes": folder, "nearest": 5}
    assert micro.with_method("freeda", **own).method.dino_size == 128
    published = micro.with_method("freeda", **own, size=448).method
    assert published.dino_size == 37 * 8
    seen = micro.with_method("freeda", **own, dino_size=72).method.encode_pixels(torch.zeros(1, 3, 128, 192))
    assert seen.grid == (9, 14)  # 72 / 128 of 128 x 192 is 72 x 108
    assert seen.image_size == (128, 192)
    with pytest.raises(InputError, match="at least one patch of 8 pixels; got 7"):
        micro.with_method("freeda", **own, dino_size=7)
    assert FreeDA.benchmark_options("cityscapes") == {"scale": 20, "sigma": 0.5, "min_size": 50}
    assert FreeDA.benchmark_options("ade20k") == FreeDA.benchmark_options("context59") == {}
    for options in BENCHMARK_SUPERPIXELS.values():
        assert micro.with_method("freeda", **own, **options).method.superpixel_options.items() >= options.items()


def test_the_vision_model_sees_the_enlarged_window(micro, folder):
    method = micro.with_method("freeda", prototypes=folder, nearest=5, dino_size=160).method
    pixels = 255 * torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    enlarged = F.interpolate(pixels, (160, 160), mode="bilinear", align_corners=False)
    torch.testing.assert_close(method.encode_pixels(pixels).patches, micro.towers.encode(enlarged).patches)


def test_segment_and_batch(micro, folder, picture):
    method = micro.with_method("freeda", prototypes=folder, nearest=20)
    pictures = [picture, picture[::-1].copy()]
    for mode in ("whole", "slide"):
        together = method.segment_batch(pictures, WORDS, mode=mode, return_scores=True)
        for one, result in zip(pictures, together, strict=True):
            assert result.labels.shape == (47, 71)
            alone = method.segment(one, WORDS, mode=mode, return_scores=True)
            np.testing.assert_allclose(alone.scores, result.scores, atol=1e-5)
    assert together[0].info["nearest"] == 20


def test_retrieval_works_on_scenes(micro, folder):
    from talk2dino.evaluation.options import EvaluationOptions
    from talk2dino.evaluation.runs import evaluate

    # 40 scenes hold about ten prototypes a class, hence ten neighbours; 16 classes by chance are right in 6 %
    own = {"prototypes": str(folder), "nearest": 10}
    options = EvaluationOptions(benchmark="world", method="freeda", method_options=own, limit=12)
    assert evaluate(options, segmenter=micro).reports[0].metrics.overall_accuracy > 0.6


def test_too_few_prototypes_for_the_published_number(micro, folder):
    """With 350 of at most 350 prototypes every class would get the same mean."""
    store = PrototypeStore(folder)
    assert len(store) < 350
    expected = len(store) // 16  # 16 words
    with pytest.warns(SmallStoreWarning, match=f"the {expected} nearest are averaged"):
        segmenter = micro.with_method("freeda", prototypes=store)
    assert segmenter.method.options["nearest"] == expected
    found = F.normalize(segmenter.encode_text(WORDS).embeddings, dim=1)
    assert (found @ found.T).fill_diagonal_(0).max() < 0.99
    with pytest.raises(InputError, match="all classes would get the same mean"):
        micro.with_method("freeda", prototypes=store, nearest=350)


class Sizes:
    """A store that is nothing but large."""

    folder, words = "large", ("a", "b")

    def __init__(self, count, keys):
        self.count, self.keys = count, range(keys)

    def __len__(self):
        return self.count


def test_the_published_number_of_neighbours_in_large_stores():
    for count, keys, expected in (
        (40_000, 2, 350),
        (40_000, 40_000, 350),
        (3_500, 100, 35),
        (800, 2, 350),
        (600, 2, 300),
    ):
        large = Sizes(count, keys)
        if expected < 350:
            with pytest.warns(SmallStoreWarning, match=f"the {expected} nearest"):
                assert usable_nearest(large, None) == expected
        else:
            assert usable_nearest(large, None) == expected
        assert usable_nearest(large, 17) == 17


def test_prototype_is_the_mean_of_covered_patches(micro):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 255, (128, 128, 3), dtype=np.uint8)
    mask = np.zeros((128, 128), bool)
    patch = micro.vision.patch_size
    mask[: 3 * patch, : 2 * patch] = True
    mask[: patch // 4, 2 * patch : 3 * patch] = True  # a quarter of a patch does not count
    small = np.zeros((128, 128), bool)
    small[:2, :2] = True  # covers no patch by half: its share counts
    found = masked_features(micro.towers, MaskedImage(image, {"ball": mask, "dot": small, "none": ~mask & mask}))
    assert [p.word for p in found] == ["ball", "dot"]
    patches = micro.encode_image(image).patches[0]
    np.testing.assert_allclose(found[0].feature, patches[:3, :2].flatten(0, 1).mean(0), atol=1e-4)
    np.testing.assert_allclose(found[1].feature, patches[0, 0], atol=1e-4)
    key = F.normalize(micro.text.embed_classes([["ball"]]), dim=-1)[0]
    np.testing.assert_allclose(found[0].key, key, atol=1e-6)


def test_images_with_masks_in_folders(micro, tmp_path, picture):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    mask = np.zeros(picture.shape[:2], np.uint8)
    mask[:20], mask[20:30], mask[30:] = 1, 255, 2
    Image.fromarray(picture).save(tmp_path / "images" / "a.png")
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    source = folder_source(tmp_path / "images", tmp_path / "masks", ["background", "sky", "grass"])
    assert build_prototypes(micro.towers, source, tmp_path / "out") == 2
    assert PrototypeStore(tmp_path / "out").words == ["sky", "grass"]
    few = folder_source(tmp_path / "images", tmp_path / "masks", ["background", "sky"])
    with pytest.raises(DataError, match=r"a\.png has the value 2, but there are only 2 names"):
        few.items["a.png"]()
    Image.fromarray(mask.T).save(tmp_path / "masks" / "a.png")
    with pytest.raises(DataError, match="47 x 71 pixels, its mask 71 x 47"):
        source.items["a.png"]()
    (tmp_path / "masks" / "a.png").unlink()
    with pytest.raises(DataError, match="no mask for"):
        folder_source(tmp_path / "images", tmp_path / "masks", ["x"])


def test_refusals(micro, folder, tmp_path):
    with pytest.raises(InputError, match="talk2dino freeda build"):
        micro.with_method("freeda")
    with pytest.raises(InputError, match="local_weight 0 to 1"):
        micro.with_method("freeda", prototypes=folder, nearest=9, local_weight=1.1)
    with pytest.raises(DataError, match="not a folder of prototypes"):
        micro.with_method("freeda", prototypes=tmp_path)

    with pytest.raises(InputError, match="accepted: exact, hnsw"):
        micro.with_method("freeda", prototypes=folder, index="auto")


def test_prototypes_of_another_model_and_of_one_word_are_refused(micro, folder, tmp_path):
    store = PrototypeStore(folder)
    store.keys = np.zeros((len(store), 512), np.float32)
    with pytest.raises(CheckpointError, match="512 text and 192 vision dimensions, but micro has 192 and 192"):
        micro.with_method("freeda", prototypes=store)
    store = PrototypeStore(folder)
    store.meta |= {"model": "nano", "fingerprint": "of other weights"}
    with pytest.raises(CheckpointError, match=r"made by nano, whose weights are not those of micro: build prototypes"):
        micro.with_method("freeda", prototypes=store)
    del store.meta["fingerprint"]  # version 0.1.0 wrote none: the name decides
    with pytest.raises(CheckpointError, match="made by nano"):
        micro.with_method("freeda", prototypes=store)
    store.meta["model"] = "micro"
    micro.with_method("freeda", prototypes=store, nearest=5)
    ball = MaskedImage(np.zeros((32, 32, 3), np.uint8), {"ball": np.ones((32, 32), bool)})
    build_prototypes(micro.towers, Source("one word", {"a": lambda: ball, "b": lambda: ball}), tmp_path / "one")
    with pytest.raises(InputError, match=r"prototypes of one word \('ball'\), so all classes would get the same one"):
        micro.with_method("freeda", prototypes=tmp_path / "one")


def test_what_was_made_before_an_interruption_is_kept(micro, tmp_path):
    whole = world_source(range(500_000, 500_006), height=48)

    def interrupt():
        raise KeyboardInterrupt

    reports = []

    def progress(done, total, note=""):
        reports.append((done, total))

    broken = replace(whole, items={**whole.items, "500003": interrupt})
    with pytest.raises(KeyboardInterrupt):
        build_prototypes(micro.towers, broken, tmp_path / "parts", progress=progress)
    assert [path.name for path in sorted((tmp_path / "parts").glob("shard-*"))] == ["shard-00000.npz"]
    for name in ("parts", "whole"):
        build_prototypes(micro.towers, whole, tmp_path / name, progress=progress)
    assert reports[:5] == [(0, 6), (1, 6), (2, 6), (3, 6), (3, 6)]  # the second run begins with what is finished
    assert reports[-1] == (6, 6)
    parts, whole = PrototypeStore(tmp_path / "parts"), PrototypeStore(tmp_path / "whole")
    assert parts.words == whole.words
    np.testing.assert_array_equal(parts.keys, whole.keys)
    np.testing.assert_array_equal(parts.prototypes, whole.prototypes)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("clip-dense", {"variannt": "patches"}, "clip-dense has no option 'variannt'; did you mean variant"),
        ("dino-clusters", {"segments": "z"}, r"dino-clusters cannot use the options segments='z'"),
        ("freeda", {"nearest": "many", "prototypes": "x"}, r"freeda cannot use the options nearest='many'"),
    ],
)
def test_options_that_a_system_does_not_take(micro, name, options, message):
    with pytest.raises(InputError, match=message):
        micro.with_method(name, **options)


def test_examples_are_prototypes_if_clip_is_left_out(micro, folder, picture):
    with pytest.raises(InputError, match="--option local_weight=1"):
        micro.with_method("freeda", prototypes=folder, nearest=5).encode_examples({"a": [(picture, (3, 5, 23, 31))]})
    local = micro.with_method("freeda", prototypes=folder, nearest=5, local_weight=1.0)
    examples = local.encode_examples({"a": [(picture, (3, 5, 23, 31))]})
    both = local.encode_text(["sky"]) + examples
    assert (both.names, both.calibration) == (("sky", "a"), None)
    assert local.segment(picture, both).names == ("sky", "a")
