"""A small encoder with a vocabulary of its own texts, for languages or machines without a pretrained one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from talk2dino.models.text_tower import quiet_transformers
from talk2dino.training.text.options import TextTrainOptions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def new_encoder(texts: Iterable[str], options: TextTrainOptions) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A BERT with random weights from ``options.seed``, and a byte-pair tokenizer trained on texts."""
    with quiet_transformers():
        from transformers import BertConfig, BertModel

        tokenizer = train_tokenizer(texts, options.vocabulary)
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=options.width, num_hidden_layers=options.depth,
            num_attention_heads=options.heads, intermediate_size=4 * options.width,
            max_position_embeddings=options.context, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            return BertModel(config, add_pooling_layer=False), tokenizer


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerBase:
    """A byte-pair tokenizer for texts in lower case; words end at spaces, punctuation and changes of script."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(unk_token=_SPECIAL["unk_token"]))
    inner.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.UnicodeScripts(), pre_tokenizers.Whitespace()])
    special = list(_SPECIAL.values())
    inner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    )
    ends = [(token, inner.token_to_id(token)) for token in (_SPECIAL["cls_token"], _SPECIAL["sep_token"])]
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=inner, **_SPECIAL)
