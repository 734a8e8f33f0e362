"""Every stage against what the published code gives for the golden checkpoints, 1e-4 in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from talk2dino.models.checkpoint import clip_text_from_original, vision_from_original
from talk2dino.models.preprocess import normalise
from talk2dino.models.projection import from_original
from talk2dino.models.text import TextEncoder
from talk2dino.models.tokenizer import TextTokenizer
from talk2dino.models.weights import below
from talk2dino.stages.background import clean_background
from talk2dino.stages.similarity import cosine_similarity

CLASSES = {"tiny_reg": ["cat", "grass", "blue sky", "traffic light"], "tiny_noreg": ["dog", "water"]}


@pytest.fixture(params=list(CLASSES))
def golden(request, reference):
    return request.param, *reference(request.param)


def close(actual: torch.Tensor, expected: np.ndarray, tolerance: float = 1e-4) -> None:
    assert actual.shape == expected.shape
    assert (actual - torch.from_numpy(expected)).abs().max().item() < tolerance


def encode(tensors, outputs):
    vision = vision_from_original(below(tensors, "model."))
    pixels = torch.from_numpy(outputs["image_rgb"])[None]
    return vision(normalise(pixels))


def test_vision(golden):
    _, tensors, outputs = golden
    out = encode(tensors, outputs)
    close(out.patches.flatten(1, 2), outputs["patch_features"])
    close(out.attention.flatten(2), outputs["attention_logits"])
    close(out.cls, outputs["cls_feature"])


def test_text(golden):
    name, tensors, outputs = golden
    text = TextEncoder(clip_text_from_original(below(tensors, "clip_model."), heads=2), TextTokenizer.clip())
    for tokens, word in zip(outputs["text_tokens"], CLASSES[name], strict=True):
        assert np.array_equal(text.tokenize([t.format(word) for t in text.templates]).numpy(), tokens)
    close(text.embed([text.templates[0].format(word) for word in CLASSES[name]]), outputs["clip_text_embedding"])
    projection = from_original(below(tensors, "proj."))
    embedded = F.normalize(projection(text.embed_classes([[word] for word in CLASSES[name]])), dim=-1, eps=1e-6)
    close(embedded, outputs["class_embedding"])


def test_masks(golden):
    _, tensors, outputs = golden
    out = encode(tensors, outputs)
    classes = torch.from_numpy(outputs["class_embedding"])
    cosine = cosine_similarity(out.patches, classes)
    close(cosine, outputs["cosine_map"])
    scores = torch.sigmoid(cosine)
    cleaned = clean_background(scores, out.patches, out.attention, classes)
    for maps, name in ((scores, "mask_plain"), (cleaned, "mask_background_cleaned")):
        close(F.interpolate(maps, (98, 98), mode="bilinear", align_corners=True), outputs[name])
