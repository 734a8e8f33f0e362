"""Every stage against what the published code gives for the golden checkpoints, 1e-4 in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

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


def test_vision(golden):
    _, tensors, outputs = golden
    vision = vision_from_original(below(tensors, "model."))
    out = vision(normalise(torch.from_numpy(outputs["image_rgb"])[None]))
    assert_close(out.patches.flatten(1, 2), torch.from_numpy(outputs["patch_features"]), atol=1e-4, rtol=0)
    assert_close(out.attention.flatten(2), torch.from_numpy(outputs["attention_logits"]), atol=1e-4, rtol=0)
    assert_close(out.cls, torch.from_numpy(outputs["cls_feature"]), atol=1e-4, rtol=0)


def test_text(golden):
    name, tensors, outputs = golden
    text = TextEncoder(clip_text_from_original(below(tensors, "clip_model."), heads=2), TextTokenizer.clip())
    for tokens, word in zip(outputs["text_tokens"], CLASSES[name], strict=True):
        assert np.array_equal(text.tokenize([t.format(word) for t in text.templates]).numpy(), tokens)
    raw = text.embed([text.templates[0].format(word) for word in CLASSES[name]])
    assert_close(raw, torch.from_numpy(outputs["clip_text_embedding"]), atol=1e-4, rtol=0)
    projection = from_original(below(tensors, "proj."))
    embedded = F.normalize(projection(text.embed_classes([[word] for word in CLASSES[name]])), dim=-1, eps=1e-6)
    assert_close(embedded, torch.from_numpy(outputs["class_embedding"]), atol=1e-4, rtol=0)


def test_masks(golden):
    _, tensors, outputs = golden
    vision = vision_from_original(below(tensors, "model."))
    out = vision(normalise(torch.from_numpy(outputs["image_rgb"])[None]))
    classes = torch.from_numpy(outputs["class_embedding"])
    cosine = cosine_similarity(out.patches, classes)
    assert_close(cosine, torch.from_numpy(outputs["cosine_map"]), atol=1e-4, rtol=0)
    plain = F.interpolate(torch.sigmoid(cosine), (98, 98), mode="bilinear", align_corners=True)
    assert_close(plain, torch.from_numpy(outputs["mask_plain"]), atol=1e-4, rtol=0)
    cleaned = clean_background(torch.sigmoid(cosine), out.patches, out.attention, classes)
    cleaned = F.interpolate(cleaned, (98, 98), mode="bilinear", align_corners=True)
    assert_close(cleaned, torch.from_numpy(outputs["mask_background_cleaned"]), atol=1e-4, rtol=0)
