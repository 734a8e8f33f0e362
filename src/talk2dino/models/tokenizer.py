"""CLIP's byte-pair tokenizer, built from the bundled merges file: no download, no network.

Source: OpenAI CLIP's simple_tokenizer (MIT), whose merges file is bundled as assets/clip/bpe_simple_vocab_16e6.txt.gz.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor

from talk2dino.errors import CheckpointError, PromptError

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
LONGEST_TEXT = 4096  # characters


class TextTokenizer:
    """Texts to fixed-length rows of token ids.

    Args:
        tokenizer: a byte-pair tokenizer whose vocabulary has the start and end tokens.
        context: length of a row, start and end tokens included (77 for the published models).
    """

    def __init__(self, tokenizer: Tokenizer, context: int) -> None:
        start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
        if start is None or end is None:
            raise CheckpointError(f"the tokenizer lacks the tokens {START} and {END}")
        self.tokenizer, self.context, self.start, self.end = tokenizer, context, start, end

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary, the merges and the length of a row."""
        return hashlib.sha256(f"{self.context} {self.tokenizer.to_str()}".encode()).hexdigest()

    @classmethod
    def clip(cls, context: int = 77) -> TextTokenizer:
        """The tokenizer of the published CLIP models."""
        return cls(_clip_tokenizer(), context)

    @classmethod
    def from_file(cls, path: Path, context: int) -> TextTokenizer:
        """A tokenizer.json of the tokenizers library."""
        try:
            return cls(Tokenizer.from_file(str(path)), context)
        except CheckpointError:
            raise
        except Exception as error:  # the library raises bare Exceptions
            raise CheckpointError(f"{path} cannot be read as a tokenizer: {error}") from None

    def __call__(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        """Token ids, padded with zeros as CLIP does.

        Args:
            texts: N strings.
            truncate: cut a text that is too long (as for captions) instead of refusing it.

        Returns:
            (N, context) int64.

        Raises:
            PromptError: if a text is longer than the model can read and truncate is False.
        """
        rows = torch.zeros(len(texts), self.context, dtype=torch.long)
        for i, text in enumerate(texts):
            if len(text) > LONGEST_TEXT:
                if not truncate:
                    raise PromptError(
                        f"a prompt of {len(text)} characters is too long ({text[:40]!r}...): the text model reads at most "
                        f"{self.context - 2} tokens, and texts over {LONGEST_TEXT} characters are refused unread; shorten it"
                    )
                text = text[:LONGEST_TEXT]
            ids = self.tokenizer.encode(clean(text), add_special_tokens=False).ids
            if len(ids) > self.context - 2:
                if not truncate:
                    raise PromptError(
                        f"a prompt of {len(ids)} tokens is too long ({text[:40]!r}...): the text model reads at most "
                        f"{self.context - 2} tokens, template included; shorten it"
                    )
                ids = ids[: self.context - 2]
            row = [self.start, *ids, self.end]
            rows[i, : len(row)] = torch.tensor(row)
        return rows


def clean(text: str) -> str:
    """Undo HTML escapes and fold white space; the tokenizer's normalizer lowers the case."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip()


def byte_symbols() -> list[str]:
    """The printable character that stands for each byte, in CLIP's order."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in set(plain)]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(others))]


@lru_cache(maxsize=1)
def _clip_tokenizer() -> Tokenizer:
    file = resources.files("talk2dino") / "assets" / "clip" / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")
    merges = [(a, b) for a, b in (line.split() for line in lines[1 : 49152 - 256 - 2 + 1])]
    symbols = byte_symbols()
    words = [*symbols, *(s + "</w>" for s in symbols), *(a + b for a, b in merges), START, END]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=END, end_of_word_suffix="</w>", fuse_unk=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    return tokenizer
