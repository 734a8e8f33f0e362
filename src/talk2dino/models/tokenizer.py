"""CLIP's byte-pair tokenizer, built from the bundled merges file without a download.

Texts are cleaned and tokenised as by OpenAI CLIP's simple_tokenizer, with one exception: the special tokens have no
meaning inside a text, so a prompt cannot end itself.

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
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor

from talk2dino.errors import CheckpointError, PromptError

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
CLIP_CONTEXT = 77  # tokens per text of OpenAI's models, start and end included
LONGEST_TEXT = 4096  # characters
_CLEANING = 2  # raise it when :func:`clean` changes: cached embeddings depend on it


class TextTokenizer:
    """Texts to fixed-length rows of token ids.

    Args:
        tokenizer: a byte-pair tokenizer for lower-case text whose vocabulary has the start and end tokens.
        context: length of a row, start and end tokens included.
    """

    def __init__(self, tokenizer: Tokenizer, context: int) -> None:
        start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
        if start is None or end is None:
            raise CheckpointError(f"the tokenizer's vocabulary must have the tokens {START} and {END}")
        self.tokenizer, self.context, self.start, self.end = tokenizer, context, start, end

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that token ids depend on."""
        return hashlib.sha256(f"{_CLEANING} {self.context} {self.tokenizer.to_str()}".encode()).hexdigest()

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self.tokenizer.get_vocab_size()

    @classmethod
    def clip(cls, context: int = CLIP_CONTEXT) -> TextTokenizer:
        """The tokenizer of OpenAI's CLIP models."""
        return cls(_clip_tokenizer(), context)

    @classmethod
    def from_file(cls, path: Path, context: int) -> TextTokenizer:
        """Read a tokenizer.json of the tokenizers library."""
        try:
            return cls(Tokenizer.from_file(str(path)), context)
        except CheckpointError:
            raise
        except Exception as error:  # the library raises bare Exceptions
            raise CheckpointError(f"cannot read a tokenizer from {path}: {error}") from None

    def __call__(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        """Token ids, padded with zeros as CLIP does.

        Args:
            texts: N strings.
            truncate: cut texts that are too long (captions) instead of raising an error (prompts).

        Returns:
            (N, context) int64.

        Raises:
            PromptError: a text is longer than the model can read and truncate is False.
        """
        rows = torch.zeros(len(texts), self.context, dtype=torch.long)
        most = self.context - 2
        for i, text in enumerate(texts):
            if len(text) > LONGEST_TEXT and not truncate:
                raise PromptError(
                    f"a prompt has {len(text)} characters ({text[:40]!r}...); at most {LONGEST_TEXT} characters and {most} "
                    "tokens are accepted: shorten it"
                )
            ids = self.tokenizer.encode(clean(text[:LONGEST_TEXT]), add_special_tokens=False).ids
            if len(ids) > most and not truncate:
                raise PromptError(
                    f"a prompt has {len(ids)} tokens ({text[:40]!r}...); at most {most} tokens are accepted, including the "
                    "template: shorten it"
                )
            row = [self.start, *ids[:most], self.end]
            rows[i, : len(row)] = torch.tensor(row)
        return rows


def clean(text: str) -> str:
    """Mend and fold a text as CLIP does: ftfy, HTML escapes twice, white space, lower case.

    ftfy undoes wrong decodings ("â€™"), and replaces typographic quotes, ligatures and full-width letters.
    """
    if "&" in text or not (text.isascii() and text.isprintable()):  # ftfy leaves the rest unchanged
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip().lower()


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
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    return tokenizer
