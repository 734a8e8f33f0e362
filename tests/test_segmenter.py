"""The whole path with the embedded model: encode once, ask often; modes, batches, dtypes, prompts, options."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from talk2dino import Segmenter
from talk2dino.errors import InputError, ModelNotFoundError, PromptError, ShapeError
from talk2dino.io.images import read_image
from talk2dino.world import CLASS_NAMES, render, sample_scene

NAMES = list(CLASS_NAMES)


@pytest.fixture(scope="module")
def micro():
    return Segmenter.from_pretrained("micro", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def scenes():
    return [render(sample_scene(30_000_000 + i, aspect=1.3, things=3), 150) for i in range(3)]


@pytest.fixture(scope="module")
def pictures():
    from pathlib import Path

    return [read_image(p).array for p in sorted((Path(__file__).parents[1] / "examples" / "pictures").glob("*.png"))]


def test_labels_are_mostly_right(micro, scenes):
    for scene in scenes:
        result = micro.segment(scene.image, NAMES)
        assert result.labels.shape == scene.labels.shape
        assert result.model == "micro"
        assert (result.labels == scene.labels).mean() > 0.7


def test_encode_once_ask_often(micro, scenes):
    features = micro.encode_image(scenes[0].image)
    assert features.patches.shape == (1, 16, 21, 192)
    assert features.attention.shape == (1, 6, 16, 21)
    for prompts in (NAMES, ["ball", "sky"]):
        [decoded] = micro.decode(features, micro.encode_text(prompts))
        assert np.array_equal(decoded.labels, micro.segment(scenes[0].image, prompts).labels)


@pytest.mark.parametrize(
    "options", [{}, {"background": True, "refine": True}, {"mode": "square"}, {"mode": "slide", "background": 0.56}]
)
def test_batch_equals_one_by_one(micro, scenes, options):
    together = micro.segment_batch([s.image for s in scenes], NAMES, return_scores=True, **options)
    for scene, result in zip(scenes, together, strict=True):
        alone = micro.segment(scene.image, NAMES, return_scores=True, **options)
        assert np.abs(alone.scores - result.scores).max() < 1e-5
        assert result.scores.shape[0] == len(result.names)


def test_slide_is_the_literal_protocol(micro, protocol_resize):
    """Resize, cut, encode each window by itself, average, resize: written out."""
    from talk2dino.models.preprocess import normalise, to_pixels
    from talk2dino.stages.similarity import cosine_similarity

    image = render(sample_scene(30_000_009, aspect=1.7), 200).image
    result = micro.segment(image, NAMES, mode="slide", return_scores=True)
    canvas = (128, int(image.shape[1] * 128 / image.shape[0] + 0.5))
    pixels = to_pixels(protocol_resize(image, canvas))[None]
    text = micro.encode_text(NAMES).embeddings
    total, count = torch.zeros(16, *canvas), torch.zeros(canvas)
    for left in [0, 64, canvas[1] - 128]:
        out = micro.vision(normalise(pixels[..., left : left + 128]))
        maps = torch.sigmoid(cosine_similarity(out.patches, text))
        total[..., left : left + 128] += torch.nn.functional.interpolate(
            maps, (128, 128), mode="bilinear", align_corners=True
        )[0]
        count[..., left : left + 128] += 1
    expected = torch.nn.functional.interpolate((total / count)[None], image.shape[:2], mode="bilinear")[0]
    assert np.abs(expected.numpy() - result.scores).max() < 1e-5


@pytest.mark.parametrize("size", [(13, 41), (53, 17), (97, 101), (37, 37)])
def test_slide_resize_reads_four_pixels_and_rounds(protocol_resize, size):
    from talk2dino.models.preprocess import resize_for_slide

    image = np.random.default_rng(3).integers(0, 256, (53, 71, 3), dtype=np.uint8)
    by_hand = np.zeros((5, 7, 3), np.uint8)
    by_hand[2, 3], by_hand[2, 4] = 100, 201
    assert resize_for_slide(by_hand, (1, 2))[0].tolist() == [[0, 50]]  # centres at 1.25 and 4.75: a quarter of the 201
    found = resize_for_slide(image, size).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found, protocol_resize(image, size))


def test_windows_of_several_pictures_share_forward_passes(micro, monkeypatch):
    """Six 4:3 pictures have two windows each: twelve windows in passes of eight and four, and one picture as before."""
    pictures = [render(sample_scene(30_000_020 + i, aspect=4 / 3), 96).image for i in range(5)]
    pictures.insert(2, render(sample_scene(30_000_031, aspect=3 / 4), 64).image)
    sizes = []
    inner = micro.towers.run_vision

    def counting(pixels):
        sizes.append(len(pixels))
        return inner(pixels)

    monkeypatch.setattr(micro.towers, "run_vision", counting)
    together = micro.segment_batch(pictures, NAMES, mode="slide", return_scores=True, batch_size=6)
    assert sizes == [8, 4]
    sizes.clear()
    for picture, result in zip(pictures, together, strict=True):
        alone = micro.segment(picture, NAMES, mode="slide", return_scores=True)
        assert alone.labels.shape == picture.shape[:2]
        assert np.abs(alone.scores - result.scores).max() < 1e-5
    assert sizes == [2] * 6
    sizes.clear()
    micro.segment_batch(pictures, NAMES, mode="slide", batch_size=3)  # pictures that are at hand at once
    assert sizes == [6, 6]


def test_other_prompts_do_not_change_scores(micro, scenes):
    few = micro.segment(scenes[1].image, ["ball", "sky"], return_scores=True, background=0.5, clean=False)
    many = micro.segment(scenes[1].image, [*NAMES[::-1]], return_scores=True, background=0.5, clean=False)
    for name in ("ball", "sky"):
        difference = few.scores[few.names.index(name)] - many.scores[many.names.index(name)]
        assert np.abs(difference).max() < 1e-5


def test_bfloat16_agrees(micro, pictures):
    half = Segmenter.from_pretrained("micro", dtype="bfloat16", device="cpu")
    agreement = [(micro.segment(p, NAMES).labels == half.segment(p, NAMES).labels).mean() for p in pictures]
    assert len(agreement) >= 3
    assert np.mean(agreement) >= 0.98


def test_background_thresholds_and_negatives(micro, scenes):
    image = scenes[0].image
    objects = NAMES[8:]
    low, high = (micro.segment(image, objects, background=t) for t in (0.0, 1.0))
    assert low.shares().get("background", 0) == 0
    assert high.shares() == {"background": 1.0}
    assert low.names[0] == "background"
    assert low.background == 0
    single = micro.segment(image, objects, background={objects[0]: 1.0})
    assert objects[0] not in single.shares()
    kept = micro.segment(image, objects, negative=NAMES[:8])
    assert kept.names == ("background", *objects)
    full = micro.segment(image, NAMES).labels
    assert np.array_equal(kept.labels == 0, full < 8)


def test_synonyms_and_languages(micro, scenes):
    image, truth = scenes[2].image, scenes[2].labels
    concepts = {"sky": ["sky", "天空"], **{n: [] for n in NAMES[1:]}}
    assert (micro.segment(image, concepts).labels == truth).mean() > 0.7
    assert micro.segment(image, ["SKY", "sky", "sky"]).names == ("SKY", "sky")
    assert "duplicate" in micro.segment(image, ["sky", "sky"]).info["notes"][0]
    strange = micro.segment(image, ["🐟", "船", "a" * 20])
    assert strange.names[0] == "🐟"


def test_one_string_is_split_at_commas(micro, scenes):
    assert micro.segment(scenes[0].image, "sky, grass") == micro.segment(scenes[0].image, ["sky", "grass"])


def test_thousand_prompts(micro, scenes):
    result = micro.segment(scenes[0].image, [f"thing number {i}" for i in range(1000)])
    assert result.labels.max() < 1000
    assert len(np.unique(result.palette, axis=0)) == 1000


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        ({"prompts": []}, PromptError, "no prompts"),
        ({"prompts": "sky, |"}, PromptError, "no class name"),
        ({"prompts": ["  "]}, PromptError, "empty"),
        ({"prompts": ["x" * 10000]}, PromptError, "500"),
        ({"prompts": [3]}, PromptError, "int"),
        ({"background": float("nan")}, InputError, "nan"),
        ({"background": 1.5}, InputError, "from 0 to 1"),
        ({"background": {"nobody": 0.5}}, InputError, "nobody"),
        ({"mode": "tiles"}, InputError, "whole, slide, square"),
        ({"negative": ["sky"], "prompts": ["sky"]}, InputError, "both a prompt and a negative prompt"),
    ],
)
def test_wrong_calls(micro, scenes, call, error, words):
    arguments = {"prompts": ["sky"]} | call
    with pytest.raises(error, match=words):
        micro.segment(scenes[0].image, **arguments)


def test_odd_sizes(micro):
    assert micro.segment(np.full((1, 1, 3), 90, np.uint8), ["sky", "sand"]).labels.shape == (1, 1)
    for mode in ("whole", "slide", "square"):
        assert micro.segment(np.zeros((1, 5000, 3), np.uint8), ["sky"], mode=mode).labels.shape == (1, 5000)
    with pytest.raises(ShapeError, match="one size"):
        micro.encode_image([np.zeros((9, 9, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)])


def test_wrong_device_and_dtype():
    with pytest.raises(InputError, match="float8"):
        Segmenter.from_pretrained("micro", dtype="float8")
    with pytest.raises(InputError, match="quantum"):
        Segmenter.from_pretrained("micro", device="quantum")


def test_save_and_load(micro, scenes, tmp_path):
    again = Segmenter.from_pretrained(micro.save_pretrained(tmp_path / "mine"), dtype="float32", device="cpu")
    assert again.config.templates == micro.config.templates
    one, two = (m.segment(scenes[0].image, NAMES, return_scores=True).scores for m in (micro, again))
    assert np.abs(one - two).max() < 1e-6


def test_an_upload_is_what_is_saved(micro, monkeypatch):
    calls = {}

    class Hub:
        def __init__(self, token=None):
            calls["token"] = token

        def create_repo(self, name, private, exist_ok):
            calls["created"] = (name, private, exist_ok)
            return f"https://hub/{name}"

        def upload_folder(self, repo_id, folder_path, commit_message):
            again = Segmenter.from_pretrained(folder_path, dtype="float32", device="cpu")
            calls["uploaded"] = (repo_id, again.method.space == micro.method.space)

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert micro.push_to_hub("me/mine", private=True, token="secret") == "https://hub/me/mine"
    assert calls == {"token": "secret", "created": ("me/mine", True, True), "uploaded": ("me/mine", True)}
    micro.push_to_hub("me/other")
    assert calls == {"token": None, "created": ("me/other", False, True), "uploaded": ("me/other", True)}
    monkeypatch.setattr(Hub, "create_repo", lambda *_, **__: (_ for _ in ()).throw(OSError("no network\nat all")))
    with pytest.raises(ModelNotFoundError, match=r"cannot upload to me/mine: no network. Check that HF_TOKEN is set"):
        micro.push_to_hub("me/mine")


def test_embedded_model_is_small():
    from importlib import resources

    folder = resources.files("talk2dino") / "assets" / "micro"
    assert sum(len(f.read_bytes()) for f in folder.iterdir()) <= 12_000_000
    assert "photograph" in (folder / "README.md").read_text()


@pytest.mark.parametrize("command", [["-c", "import talk2dino"], ["-m", "talk2dino", "--help"]])
def test_starts_under_a_second(command):
    def seconds() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        return time.perf_counter() - started

    assert min(seconds() for _ in range(4)) < 1.0
