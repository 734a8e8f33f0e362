"""What a run asks for, with a model: words, examples and vocabulary files as one set of classes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from talk2dino.errors import InputError
from talk2dino.io.names import readable
from talk2dino.words.example_files import ExampleFile, read_example_files
from talk2dino.words.prompts import PromptList
from talk2dino.words.vocabulary import load_vocabulary, merge_vocabularies

if TYPE_CHECKING:
    from talk2dino.segmenter import Segmenter
    from talk2dino.types import TextFeatures


@dataclass(frozen=True)
class Asked:
    """Classes in all the forms that users may give them.

    Attributes:
        prompts, negative: words.
        examples, negative_examples: regions of image files.
        per_class: most embeddings per class of the examples.
        vocabularies: files of ``talk2dino vocabulary``.
    """

    prompts: PromptList | None = None
    negative: PromptList | None = None
    examples: tuple[ExampleFile, ...] = ()
    negative_examples: tuple[ExampleFile, ...] = ()
    per_class: int = 1
    vocabularies: tuple[Path, ...] = ()

    def check(self) -> None:
        """Refuse a call that names no class; files are read later.

        Raises:
            InputError: says how to name one.
        """
        if self.prompts is None and not self.examples and not self.vocabularies:
            raise InputError(
                "no classes were given: name them with prompts (--prompts, --prompt-file), examples (--example) or a "
                "vocabulary (--vocabulary)"
            )
        for path in self.vocabularies:
            if not path.is_file():
                raise InputError(f"no vocabulary at {readable(path)}")

    def names(self) -> tuple[str, ...] | None:
        """The names of the classes; None if only the vocabulary files know them all."""
        if self.vocabularies:
            return None
        words = () if self.prompts is None else self.prompts.names
        return tuple(dict.fromkeys((*words, *(one.name for one in self.examples))))

    def encode(self, segmenter: Segmenter, *, mode: str = "whole") -> TextFeatures:
        """The classes and their embeddings.

        Args:
            mode: how the images of the examples are seen.

        Raises:
            InputError: a region that does not fit its image; a vocabulary of another model.
            DataError: a damaged file.
        """
        parts: list[TextFeatures] = []
        if self.prompts is not None:
            parts.append(segmenter.encode_text(self.prompts, negative=self.negative))
        elif self.negative is not None:
            raise InputError("negative prompts need prompts beside them (--prompts): add at least one")
        for path in self.vocabularies:
            parts.append(load_vocabulary(path, space=segmenter.method.space, model=segmenter.name))
        if self.examples or self.negative_examples:
            found = segmenter.encode_examples(
                read_example_files(self.examples), negative=read_example_files(self.negative_examples),
                per_class=self.per_class, mode=mode,
            )  # fmt: skip
            parts.append(found)
        return merge_vocabularies(parts)

    def digest(self) -> list[str]:
        """What decides the classes besides the words: the contents of the files."""
        files = [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in self.vocabularies]
        examples = [one.digest() for one in (*self.examples, *self.negative_examples)]
        return [*files, *examples, str(self.per_class)] if files or examples else []

    def describe(self) -> str:
        """How the classes are made, for ``talk2dino vocabulary list``."""
        examples = len(self.examples) + len(self.negative_examples)
        counts = {
            "words": len(self.prompts or ()) + len(self.negative or ()), "examples": examples,
            "vocabularies": len(self.vocabularies),
        }  # fmt: skip
        return "made from " + ", ".join(f"{count} {what}" for what, count in counts.items() if count)
