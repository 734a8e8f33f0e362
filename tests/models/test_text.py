"""Text: tokenizer, templates, synonyms, cache; the encoder against transformers' eager attention."""

from __future__ import annotations

import pytest
import torch
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection

from talk2dino.errors import PromptError
from talk2dino.models import layouts
from talk2dino.models.keymaps import HUB_TEXT
from talk2dino.models.templates import PUBLISHED_TEMPLATES, check_templates
from talk2dino.models.text import TextEncoder
from talk2dino.models.tokenizer import TextTokenizer
from talk2dino.models.vit import TextTransformer, clip_text


def eager() -> CLIPTextModelWithProjection:
    torch.manual_seed(5)
    config = CLIPTextConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, projection_dim=17,
        max_position_embeddings=77, bos_token_id=49406, eos_token_id=49407, attn_implementation="eager",
    )  # fmt: skip
    return CLIPTextModelWithProjection(config).eval()


def build() -> TextTransformer:
    """The same weights in our class."""
    config = clip_text(24, 2, 3, 40, vocabulary=49408, context=77, output=17)
    return layouts.build(TextTransformer, config, eager().state_dict(), HUB_TEXT, "a small CLIP")


@pytest.fixture(scope="module")
def encoder():
    return TextEncoder(build(), TextTokenizer.clip())


def test_twin(encoder):
    """Rows cut to their longest text give what eager attention gives on all 77 tokens."""
    texts = ["a cat", "a very long red car in front of a house", "草地", "🐟"]
    with torch.no_grad():
        expected = eager()(input_ids=encoder.tokenize(texts)).text_embeds
    assert encoder.embed(texts).shape == (4, 17)
    assert torch.allclose(encoder.embed(texts), expected, atol=1e-5)


def test_classes_average_templates_and_synonyms(encoder):
    templates = ("a {}.", "the {} here")
    classes = encoder.embed_classes([["cat"], ["dog", "hound", "puppy"]], templates)
    by_hand = encoder.embed([t.format(n) for n in ("dog", "hound", "puppy") for t in templates]).mean(0)
    assert torch.allclose(classes[1], by_hand, atol=1e-6)
    assert torch.allclose(classes[0], encoder.embed(["a cat.", "the cat here"]).mean(0), atol=1e-6)


def test_known_texts_are_not_computed_again(encoder, monkeypatch):
    first = encoder.embed(["remember me"])
    monkeypatch.setattr(encoder.model, "forward", None)
    assert torch.equal(encoder.embed(["remember me", "remember me"]), first.expand(2, -1))


def test_case_and_escapes_fold(encoder):
    tokens = encoder.tokenize(["A  RED&amp;blue Car", "a red&blue car"])
    assert torch.equal(tokens[0], tokens[1])


def test_long_texts(encoder):
    with pytest.raises(PromptError, match="at most 75 tokens"):
        encoder.embed(["word " * 80])
    assert encoder.embed(["word " * 80], truncate=True).isfinite().all()
    row = encoder.tokenize(["word " * 80], truncate=True)[0]
    assert row[0] == 49406
    assert row[-1] == 49407
    with pytest.raises(PromptError, match="10000 characters"):
        encoder.embed(["x" * 10000])


def test_templates():
    assert len(PUBLISHED_TEMPLATES) == 7
    for bad in ("no place", "{} and {}", "{0} {}", ""):
        with pytest.raises(PromptError):
            check_templates([bad])
    with pytest.raises(PromptError):
        check_templates([])
