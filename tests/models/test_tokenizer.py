"""The tokenizer against OpenAI CLIP's simple_tokenizer, written out."""

from __future__ import annotations

import gzip
import html
import itertools
from importlib import resources

import ftfy
import pytest
import regex
from tokenizers import Tokenizer, models

from talk2dino.errors import CheckpointError, PromptError
from talk2dino.models.tokenizer import TextTokenizer, clean


class SimpleTokenizer:
    """OpenAI CLIP's clip/simple_tokenizer.py (MIT): its cleaning, word pattern and byte-pair merges."""

    def __init__(self) -> None:
        printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
        others = [byte for byte in range(256) if byte not in printable]
        self.symbols = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
        path = resources.files("talk2dino") / "assets" / "clip" / "bpe_simple_vocab_16e6.txt.gz"
        lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
        merges = [tuple(line.split()) for line in lines]
        words = list(self.symbols.values())
        words += [word + "</w>" for word in words] + ["".join(pair) for pair in merges]
        self.ids = {word: number for number, word in enumerate(words)}
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.words = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE)

    def merge(self, token: str) -> list[str]:
        pieces = [*token[:-1], token[-1] + "</w>"]
        while len(pieces) > 1:
            best = min(itertools.pairwise(pieces), key=lambda pair: self.ranks.get(pair, float("inf")))
            if best not in self.ranks:
                break
            merged: list[str] = []
            i = 0
            while i < len(pieces):
                pair = tuple(pieces[i : i + 2])
                merged.append("".join(pair) if pair == best else pieces[i])
                i += 2 if pair == best else 1
            pieces = merged
        return pieces

    def __call__(self, text: str) -> list[int]:
        text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
        text = regex.sub(r"\s+", " ", text).strip().lower()
        return [
            self.ids[piece]
            for word in regex.findall(self.words, text)
            for piece in self.merge("".join(self.symbols[byte] for byte in word.encode()))
        ]


@pytest.fixture(scope="module")
def simple():
    return SimpleTokenizer()


@pytest.mark.parametrize(
    "text",
    [
        "a photo of the large traffic light.",
        "the dog’s “red” ball ‘here’",
        "ﬁre ﬂag of a ﬃnch",
        "Ｆｕｌｌ　ｗｉｄｔｈ，　１２",
        "schÃ¶n, donâ€™t, cafÃ©",
        "ham &amp;amp; eggs &lt;3 &quot;x&quot;",
        "cafe\u0301 and caf\u00e9",
        "ΟΔΟΣ İstanbul Kelvin ß it'ſ it'LL",
        "two\t\n  lines\x85\u200bhere \x1b[31mred",
        "草地，球 🐟👩‍🚒 ½ 3 1000",
        "banana banananana",
        "",
    ],
)
def test_tokens_are_simple_tokenizers(simple, text):
    row = TextTokenizer.clip()([text])[0].tolist()
    end = row.index(49407)
    assert row[0] == 49406
    assert row[1:end] == simple(text)
    assert not any(row[end + 1 :])


def test_mending_changes_tokens():
    assert clean("the dog’s ﬁre，donâ€™t") == "the dog's fire,don't"
    tokens = TextTokenizer.clip()(["donâ€™t", "don’t", "DON'T "])
    assert tokens.unique(dim=0).shape[0] == 1


def test_exactly_75_tokens_fit():
    tokenizer = TextTokenizer.clip()
    row = tokenizer(["ball " * 75])[0].tolist()
    assert (row[0], row[-1]) == (49406, 49407)
    assert row[1:-1] == [tokenizer(["ball"])[0, 1].item()] * 75
    with pytest.raises(PromptError, match=r"a prompt has 76 tokens .*at most 75 tokens"):
        tokenizer(["ball " * 76])
    assert tokenizer(["ball " * 76], truncate=True)[0].tolist() == row


def test_a_special_token_in_a_prompt_does_not_end_it():
    row = TextTokenizer.clip()(["a <|endoftext|> ball"])[0].tolist()
    assert row.count(49407) == 1


@pytest.mark.parametrize("missing", ["<|startoftext|>", "<|endoftext|>"])
def test_a_vocabulary_without_the_special_tokens_is_refused(missing):
    words = [word for word in ("<|startoftext|>", "<|endoftext|>", "a") if word != missing]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, []))
    with pytest.raises(CheckpointError, match=r"must have the tokens <\|startoftext\|> and <\|endoftext\|>"):
        TextTokenizer(tokenizer, 7)


def test_very_long_texts():
    tokenizer = TextTokenizer.clip()
    with pytest.raises(PromptError, match=r"a prompt has 4097 characters .*at most 4096 characters and 75 tokens"):
        tokenizer(["a" * 4097])
    with pytest.raises(PromptError, match=r"tokens .*at most 75 tokens"):
        tokenizer(["a " * 2048])
    cut = tokenizer(["ball " * 2000, "ball"], truncate=True)
    assert cut[0].count_nonzero() == 77
    assert cut.shape == (2, 77)
    assert TextTokenizer.clip(9)(["ball"]).shape == (1, 9)


def test_fingerprints_depend_on_the_context_and_the_vocabulary():
    first = TextTokenizer.clip()
    small = Tokenizer(models.BPE({"<|startoftext|>": 0, "<|endoftext|>": 1}, []))
    found = {first.fingerprint, TextTokenizer.clip(76).fingerprint, TextTokenizer(small, 77).fingerprint}
    assert len(found) == 3
    assert TextTokenizer.clip().fingerprint == first.fingerprint
    assert len(first.fingerprint) == 64
    assert (first.vocabulary, TextTokenizer(small, 77).vocabulary) == (49408, 2)
