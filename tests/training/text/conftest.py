"""Pairs of the drawn world, tiny encoders of real architectures, and short runs on them."""

from __future__ import annotations

import pytest
import torch

from talk2dino.training.text.fit import train_text
from talk2dino.training.text.new_encoder import train_tokenizer
from talk2dino.training.text.options import TextTrainOptions
from talk2dino.training.text.pairs import Pairs
from talk2dino.world.spanish import write_pairs

TINY = {"width": 16, "depth": 1, "heads": 2, "context": 29, "batch_size": 13, "vocabulary": 211, "log_every": 2}


@pytest.fixture(scope="session")
def pairs():
    texts, english = zip(*write_pairs(83), strict=True)
    return Pairs(texts, english)


@pytest.fixture(scope="session")
def distil(pairs):
    """Run some steps of a small distillation on micro."""

    def run(out, *, pairs=pairs, progress=None, **options):
        given = {**TINY, "languages": ("es",), "max_steps": 5, **options}
        return train_text(pairs, TextTrainOptions(**given), out, model="micro", device="cpu", progress=progress)

    return run


@pytest.fixture(scope="session")
def encoders(tmp_path_factory, pairs):
    """Folders with tiny random encoders as transformers saves them: a BERT with a pooler, and an XLM-R."""
    from transformers import BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

    folder = tmp_path_factory.mktemp("encoders")
    tokenizer = train_tokenizer([*pairs.texts, *pairs.english], 193)
    sizes = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 23, "max_position_embeddings": 31, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    torch.manual_seed(7)
    for name, config, kind in (
        ("bert", BertConfig(**sizes), BertModel),
        ("xlm-r", XLMRobertaConfig(**{**sizes, "pad_token_id": 1}), XLMRobertaModel),
    ):
        kind(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder
