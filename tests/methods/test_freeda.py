import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from talk2dino.errors import CheckpointError, DataError, InputError
from talk2dino.methods import wrap_segmenter
from talk2dino.methods.freeda import (
    FreeDA,
    SmallStoreWarning,
    region_similarity,
    superpixel_weights,
    superpixels,
    usable_nearest,
)
from talk2dino.methods.prototype_build import (
    MaskedPicture,
    PrototypeMaker,
    build_prototypes,
    folder_source,
    world_source,
)
from talk2dino.methods.prototypes import PrototypeStore

WORDS = ["sky", "ball", "grass", "water"]


@pytest.fixture(scope="session")
def folder(micro, tmp_path_factory):
    path = tmp_path_factory.mktemp("prototypes")
    build_prototypes(micro, world_source(range(500_000, 500_040)), path, what="40 scenes", index="exact")
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
    both, local = (
        FreeDA(micro, prototypes=folder, nearest=9),
        FreeDA(micro, prototypes=folder, nearest=9, local_weight=1.0),
    )
    pixels = torch.from_numpy(np.array(Image.fromarray(picture).resize((96, 96)))).permute(2, 0, 1)[None].float()
    classes = both.encode_text(WORDS)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (pixels / 255 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    with torch.no_grad():
        image = micro.clip_vision.embed_image(normalised)
    text = F.normalize(micro.text.embed_classes([[word] for word in WORDS]), dim=-1)
    everywhere = F.normalize(image, dim=-1) @ text.T
    expected = 0.8 * local.score_maps(pixels, classes) + 0.2 * everywhere[:, :, None, None]
    torch.testing.assert_close(both.score_maps(pixels, classes), expected, atol=1e-5, rtol=0)


def test_class_prototypes_are_means_of_the_nearest(micro, folder):
    store = PrototypeStore(folder)
    method = FreeDA(micro, prototypes=folder, nearest=5)
    classes = method.encode_text(["ball"])
    key = F.normalize(micro.text.embed_classes([["ball"]]), dim=-1).numpy()[0]
    nearest = np.argsort(-(store.keys @ key), kind="stable")[:5]
    assert {store.words[i] for i in nearest} == {"ball"}
    np.testing.assert_allclose(classes.prototypes[0], store.prototypes[nearest].mean(0), atol=1e-5)


def test_segment_and_batch(micro, folder, picture):
    method = wrap_segmenter("freeda", micro, prototypes=folder, nearest=20)
    pictures = [picture, picture[::-1].copy()]
    for mode in ("whole", "slide"):
        together = method.segment_batch(pictures, WORDS, mode=mode, return_scores=True)
        for one, result in zip(pictures, together, strict=True):
            assert result.labels.shape == (47, 71)
            alone = method.segment(one, WORDS, mode=mode, return_scores=True)
            np.testing.assert_allclose(alone.scores, result.scores, atol=1e-5)
    assert together[0].info["nearest"] == 20


def test_retrieval_works_on_scenes(micro, folder):
    from talk2dino.evaluation.world import evaluate_world

    # 40 scenes hold about ten prototypes a class, hence ten neighbours; 16 classes by chance are right in 6 %
    figures = evaluate_world(FreeDA(micro, prototypes=folder, nearest=10), range(900_000, 900_012))
    assert figures.metrics.overall_accuracy > 0.6


def test_too_few_prototypes_for_the_published_number(micro, folder):
    """With 350 of at most 350 prototypes every class would get the same mean."""
    store = PrototypeStore(folder)
    assert len(store) < 350
    expected = len(store) // 16  # 16 words
    with pytest.warns(SmallStoreWarning, match=f"the {expected} nearest are used"):
        method = FreeDA(micro, prototypes=store)
    assert (method.nearest, method.info["nearest"]) == (expected, expected)
    found = F.normalize(method.encode_text(WORDS).prototypes, dim=1)
    assert (found @ found.T).fill_diagonal_(0).max() < 0.99
    with pytest.raises(InputError, match="every class would get the mean of all"):
        FreeDA(micro, prototypes=store, nearest=350)

    class Large:
        words = ["a", "b"] * 20_000

        def __len__(self):
            return 40_000

    assert usable_nearest(Large(), None) == 350
    Large.words = [f"word {i}" for i in range(40_000)]  # one a word, but many: the published number stays
    assert usable_nearest(Large(), None) == 350
    assert usable_nearest(Large(), 17) == 17


def test_prototype_is_the_mean_of_covered_patches(micro):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 255, (128, 128, 3), dtype=np.uint8)
    mask = np.zeros((128, 128), bool)
    patch = micro.vision.patch_size
    mask[: 3 * patch, : 2 * patch] = True
    mask[: patch // 4, 2 * patch : 3 * patch] = True  # a quarter of a patch does not count
    small = np.zeros((128, 128), bool)
    small[:2, :2] = True  # covers no patch by half: its share counts
    maker = PrototypeMaker(micro)
    found = maker.prototypes(MaskedPicture("a", image, {"ball": mask, "dot": small, "none": ~mask & mask}))
    assert [p.word for p in found] == ["ball", "dot"]
    patches = micro.encode_image(image).patches[0]
    np.testing.assert_allclose(found[0].feature, patches[:3, :2].flatten(0, 1).mean(0), atol=1e-4)
    np.testing.assert_allclose(found[1].feature, patches[0, 0], atol=1e-4)
    key = F.normalize(micro.text.embed_classes([["ball"]]), dim=-1)[0]
    np.testing.assert_allclose(found[0].key, key, atol=1e-6)


def test_pictures_with_masks_in_folders(micro, tmp_path, picture):
    for name in ("pictures", "masks"):
        (tmp_path / name).mkdir()
    mask = np.zeros(picture.shape[:2], np.uint8)
    mask[:20], mask[20:30], mask[30:] = 1, 255, 2
    Image.fromarray(picture).save(tmp_path / "pictures" / "a.png")
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    source = list(folder_source(tmp_path / "pictures", tmp_path / "masks", ["background", "sky", "grass"]))
    assert build_prototypes(micro, source, tmp_path / "out", what="folder", index="exact") == 2
    assert PrototypeStore(tmp_path / "out").words == ["sky", "grass"]
    name, load = next(folder_source(tmp_path / "pictures", tmp_path / "masks", ["background", "sky"]))
    assert name == "a.png"
    with pytest.raises(DataError, match=r"value 2, but only 2 names"):
        load()
    Image.fromarray(mask.T).save(tmp_path / "masks" / "a.png")
    with pytest.raises(DataError, match=r"\(47, 71\).*\(71, 47\)"):
        source[0][1]()
    (tmp_path / "masks" / "a.png").unlink()
    with pytest.raises(DataError, match="no mask for"):
        list(folder_source(tmp_path / "pictures", tmp_path / "masks", ["x"]))


def test_refusals(micro, folder, tmp_path):
    with pytest.raises(InputError, match="talk2dino freeda build"):
        FreeDA(micro)
    with pytest.raises(InputError, match="local_weight 0 to 1"):
        FreeDA(micro, prototypes=folder, nearest=9, local_weight=1.1)
    with pytest.raises(DataError, match="not a prototype folder"):
        FreeDA(micro, prototypes=tmp_path)

    class Other:
        name, text, vision, device = "other", type("T", (), {"dim": 512}), type("V", (), {"dim": 768}), "cpu"

    with pytest.raises(CheckpointError, match="192 text and 192 vision dimensions, the model other has 512 and 768"):
        FreeDA(Other(), prototypes=folder)


def test_what_was_made_before_an_interruption_is_kept(micro, tmp_path):
    scenes = range(500_000, 500_006)

    def interrupted():
        for number, (name, load) in enumerate(world_source(scenes, height=48)):
            if number == 3:
                raise KeyboardInterrupt
            yield name, load

    with pytest.raises(KeyboardInterrupt):
        build_prototypes(micro, interrupted(), tmp_path / "parts", what="w", index="exact")
    assert [path.name for path in sorted((tmp_path / "parts").glob("shard-*"))] == ["shard-00000.npz"]
    for name in ("parts", "whole"):
        build_prototypes(micro, world_source(scenes, height=48), tmp_path / name, what="w", index="exact")
    parts, whole = PrototypeStore(tmp_path / "parts"), PrototypeStore(tmp_path / "whole")
    assert parts.words == whole.words
    np.testing.assert_array_equal(parts.keys, whole.keys)
    np.testing.assert_array_equal(parts.prototypes, whole.prototypes)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("clip-dense", {"variannt": "patches"}, "clip-dense has no option variannt; it has: variant, size"),
        ("dino-clusters", {"segments": "z"}, r"dino-clusters cannot use the options segments='z'"),
        ("freeda", {"nearest": "many", "prototypes": "x"}, r"freeda cannot use the options nearest='many'"),
    ],
)
def test_options_that_a_system_does_not_take(micro, name, options, message):
    with pytest.raises(InputError, match=message):
        wrap_segmenter(name, micro, **options)
