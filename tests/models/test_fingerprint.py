"""Fingerprints: equal for equal weights, different after any change; the same as 0.1.0 recorded."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from talk2dino.models.fingerprint import (
    quick_checksum,
    quick_fingerprint,
    same_weights,
    weights_checksum,
    weights_in_halves,
)
from talk2dino.models.loading import load_parts

#: What 0.1.0 recorded in the folders of ``extract`` and ``train`` for micro.
MICRO_VISION = {"float16": "a9790cdb2210d1da", "bfloat16": "09dd32c0c23d6703"}
MICRO_TEXT = {"float16": "8e6e566a2fcfe859", "bfloat16": "50816ef9fcc31412"}


@pytest.fixture
def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(11, 13), nn.Linear(13, 7))


def test_micro_has_the_fingerprints_that_0_1_0_recorded():
    parts = load_parts("micro")
    assert weights_in_halves(parts.vision) == MICRO_VISION
    assert weights_in_halves(parts.text.model) == MICRO_TEXT
    assert weights_checksum(parts.vision) == "22c8b44db0fc20ce"


def test_halves_recognise_weights_in_any_dtype():
    torch.manual_seed(0)
    layer = nn.Linear(5, 7)
    recorded = weights_in_halves(layer)
    for kind in (torch.float16, torch.bfloat16, torch.float32):
        other = nn.Linear(5, 7)
        other.load_state_dict({name: value.to(kind) for name, value in layer.state_dict().items()})
        assert same_weights(other, recorded)
        assert same_weights(other.to(kind), recorded)
        other.bias.data[3] *= 1.01
        assert not same_weights(other, recorded)


@pytest.mark.parametrize("checksum", [quick_checksum, weights_checksum])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checksum_sees_every_value(layers, checksum, dtype):
    layers.to(dtype)
    before = checksum(layers)
    assert checksum(copy.deepcopy(layers)) == before
    for parameter in layers.parameters():  # sizes 143, 13, 91 and 7: not multiples of 8 bytes
        flat = parameter.data.view(-1)
        for index in range(len(flat)):
            kept = flat[index].clone()
            flat[index] = kept * 1.01
            assert checksum(layers) != before
            flat[index] = kept
    assert checksum(layers) == before


def test_a_quick_checksum_sees_exchanged_rows(layers):
    before = quick_checksum(layers)
    layers[0].weight.data = layers[0].weight.data.flip(0)
    assert quick_checksum(layers) != before


def test_a_quick_fingerprint_tells_models_apart_in_any_of_two_dtypes(layers):
    torch.manual_seed(1)
    other = nn.Sequential(nn.Linear(11, 13), nn.Linear(13, 7))
    before = quick_fingerprint(layers)
    assert quick_fingerprint(other) != before
    assert quick_fingerprint(copy.deepcopy(layers).to(torch.bfloat16)) == before
    layers[1].bias.data[3] += 0.1
    assert quick_fingerprint(layers) != before


def test_digests_of_known_weights_stay_as_they_are():
    """They are compared with what other versions wrote into manifests, journals and caches."""
    layer = nn.Linear(13, 11)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(143.0).reshape(11, 13) / 7)
        layer.bias.copy_(torch.arange(11.0) / 3)
    assert weights_checksum(layer) == "6694152f43d8dfcd"
    assert weights_checksum(layer, torch.bfloat16) == "dc9ea0313407abf0"
    assert weights_in_halves(layer) == {"float16": "f797e692fabc5237", "bfloat16": "dc9ea0313407abf0"}
    assert quick_checksum(layer) == "b8c09ebd833e1389"
    assert quick_fingerprint(layer) == "e7d2dfb042f003b3"


def test_one_recorded_half_is_enough(layers):
    recorded = weights_in_halves(layers)
    for name, digest in recorded.items():
        assert same_weights(layers, {name: digest})
        assert not same_weights(layers, {name: digest[::-1]})
    assert not same_weights(layers, {})


def test_the_mask_token_counts_only_where_every_bit_does():
    vision = load_parts("micro").vision
    digests = (weights_in_halves, quick_fingerprint, weights_checksum, quick_checksum)
    before = [digest(vision) for digest in digests]
    assert "backbone.mask_token" in dict(vision.named_parameters())
    vision.backbone.mask_token.data += 1
    after = [digest(vision) for digest in digests]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, True, False, False]
