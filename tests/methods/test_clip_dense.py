from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from talk2dino import Segmenter
from talk2dino.errors import InputError, ModelNotFoundError
from talk2dino.methods.clip_dense import VARIANTS, clip_normalise, dense_clip_features

WORDS = ["sky", "ball", "grass"]


@pytest.fixture
def pixels():
    torch.manual_seed(7)
    return torch.randn(2, 3, 5 * 12, 7 * 12)


def test_patches_are_those_of_an_ordinary_forward_pass(micro, pixels):
    tower = micro.clip_vision
    out = tower(pixels)[0][:, 1:]
    expected = tower.proj(out).reshape(2, 5, 7, -1)
    torch.testing.assert_close(dense_clip_features(tower, pixels, "patches"), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", ["values", "residual"])
def test_values_by_hand(micro, pixels, variant):
    """Weights taken out and multiplied by hand: W_o W_v LN(x), with LN_post and the projection after it."""
    model = micro.clip_vision
    before, last = model.tokens_before_last(pixels), model.blocks[-1]

    def norm(layer, x):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias

    attention = last.attn
    values = norm(last.norm1, before) @ attention.qkv.weight[320:].T + attention.qkv.bias[320:]  # q, k and v: 160 each
    out = values @ attention.proj.weight.T + attention.proj.bias
    if variant == "residual":
        out = before + out
        hidden = norm(last.norm2, out) @ last.mlp.fc1.weight.T + last.mlp.fc1.bias
        out = out + F.gelu(hidden) @ last.mlp.fc2.weight.T + last.mlp.fc2.bias
    expected = norm(model.norm, out)[:, 1:] @ model.proj.weight.T
    found = dense_clip_features(micro.clip_vision, pixels, variant)
    torch.testing.assert_close(found.flatten(1, 2), expected, atol=1e-5, rtol=0)


def test_segment_has_the_shape_and_names_asked_for(micro, picture):
    method = micro.with_method("clip-dense")
    result = method.segment(picture, WORDS, return_scores=True)
    assert result.labels.shape == (47, 71)
    assert result.names == tuple(WORDS)
    assert result.scores.shape == (3, 47, 71)
    assert np.abs(result.scores).max() <= 1
    np.testing.assert_array_equal(result.scores.argmax(0), result.labels)
    assert result.info["method"] == "clip-dense"
    with_background = method.segment(picture, WORDS, background=1.0)
    assert with_background.names == ("background", *WORDS)
    assert not with_background.labels.any()  # no cosine is above 1
    told, default, mixed = (
        method.segment(picture, WORDS, background=given).labels for given in (0.2, True, {"sky": 1.0})
    )
    np.testing.assert_array_equal(told, default)
    assert (mixed == 1).sum() == 0 < (mixed > 1).sum()


@pytest.mark.parametrize("mode", ["whole", "slide", "square"])
def test_batch_gives_what_pictures_give_one_by_one(micro, picture, mode):
    method = micro.with_method("clip-dense")
    pictures = [picture, picture[:, ::-1].copy(), picture[:37]]
    together = method.segment_batch(pictures, WORDS, mode=mode, return_scores=True)
    for one, result in zip(pictures, together, strict=True):
        np.testing.assert_allclose(
            method.segment(one, WORDS, mode=mode, return_scores=True).scores, result.scores, atol=1e-5
        )


def test_statistics_of_the_clip_at_hand(micro):
    white = torch.full((1, 3, 2, 2), 255.0)
    openai = replace(micro.config, tokenizer="clip")
    assert clip_normalise(white, openai)[0, 0, 0, 0] == pytest.approx((1 - 0.48145466) / 0.26862954, abs=1e-5)
    assert clip_normalise(white, micro.config)[0, 0, 0, 0] == pytest.approx((1 - 0.485) / 0.229, abs=1e-5)


def test_templates_are_normalised_one_by_one(micro):
    templates = ["a photo of a {}.", "the {}.", "art of a {}."]
    raw = torch.stack([micro.text.embed([template.format(word) for word in WORDS]) for template in templates])
    each = F.normalize(raw, dim=-1).mean(0)
    found = micro.with_method("clip-dense", normalise_templates=True).encode_text(WORDS, templates=templates)
    torch.testing.assert_close(found.embeddings, F.normalize(each, dim=-1))
    default = micro.with_method("clip-dense").encode_text(WORDS, templates=templates)
    torch.testing.assert_close(default.embeddings, F.normalize(raw.mean(0), dim=-1))


def test_negative_prompts_become_background(micro, picture):
    dense = micro.with_method("clip-dense")
    every = dense.segment(picture, WORDS).labels
    kept = dense.segment(picture, WORDS[:1], negative=WORDS[1:])
    assert kept.names == ("background", "sky")
    np.testing.assert_array_equal(kept.labels == 1, every == 0)


def test_refusals(micro, picture):
    with pytest.raises(InputError, match=", ".join(VARIANTS)):
        micro.with_method("clip-dense", variant="keys")
    dense = micro.with_method("clip-dense")
    with pytest.raises(InputError, match="clip-dense has no background cleaning"):
        dense.segment(picture, WORDS, clean=True)
    with pytest.raises(InputError, match="not among the prompts: fog"):
        dense.segment(picture, WORDS, background={"fog": 0.2})
    for wrong in (float("nan"), 1.5, "high", True + 1):
        with pytest.raises(InputError, match="-1 to 1"):
            dense.segment(picture, WORDS, background=wrong)
    for right in (np.float32(0.2), np.float64(0.2)):
        assert dense.segment(picture, WORDS, background=right).names[0] == "background"
    with pytest.raises(InputError, match="did you mean clip-dense"):
        Segmenter.from_pretrained("micro", method="clip_dense")
    with pytest.raises(InputError, match="talk2dino has no option 'variant'; it has: size"):
        micro.with_method("talk2dino", variant="values")


def test_a_checkpoint_without_clip_image_tower_is_refused(micro, monkeypatch):
    monkeypatch.setattr(micro.towers, "_clip_vision", None)
    with pytest.raises(ModelNotFoundError, match=r"CLIP's image tower, which the model micro does not include"):
        micro.with_method("clip-dense")
