"""Pairs of sentences: a text in some language, and the English text that means the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from talk2dino.errors import DataError, InputError
from talk2dino.io.names import readable
from talk2dino.io.settings import read_lines

_FORMS = (
    "a .tsv file (text, tab, English), a .jsonl file with the keys text and english, or two .txt files with equal lines"
)


@dataclass(frozen=True)
class Pairs:
    """N texts and their English.

    Raises:
        DataError: unequal numbers, or none.
    """

    texts: tuple[str, ...]
    english: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.english):
            raise DataError(f"{len(self.texts)} texts and {len(self.english)} English texts do not form pairs")
        if not self.texts:
            raise DataError("there are no pairs of sentences")

    def __len__(self) -> int:
        return len(self.texts)

    def fingerprint(self) -> str:
        """A digest (16 digits) of all pairs, in order."""
        content = json.dumps([self.texts, self.english], ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_pairs(paths: Sequence[str | Path]) -> Pairs:
    """Read pairs from files; several .tsv and .jsonl files are joined.

    Raises:
        InputError: other files than those. DataError: a file cannot be read, or a line is not a pair.
    """
    files = [Path(path) for path in paths]
    kinds = {path.suffix.lower() for path in files}
    if kinds == {".txt"} and len(files) == 2:
        texts, english = (read_lines(path, "file of sentences", keep_empty=True) for path in files)
        if len(texts) != len(english):
            raise DataError(
                f"{readable(files[0])} has {len(texts)} lines and {readable(files[1])} has {len(english)}: line i of one file "
                "must be the translation of line i of the other"
            )
        found = [_checked(files[0], n, a, b) for n, (a, b) in enumerate(zip(texts, english, strict=True), start=1)]
    elif files and kinds <= {".tsv", ".jsonl"}:
        found = [pair for path in files for pair in (_tsv(path) if path.suffix.lower() == ".tsv" else _jsonl(path))]
    else:
        raise InputError(f"expected {_FORMS}; got {', '.join(map(readable, files)) or 'no file'}")
    return Pairs(tuple(text for text, _ in found), tuple(english for _, english in found))


def _tsv(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(_lines(path), start=1):
        columns = line.split("\t")
        if len(columns) != 2:
            raise DataError(
                f"line {number} of {readable(path)} has {len(columns)} columns; expected two, a text and its English, with a "
                "tab between them"
            )
        yield _checked(path, number, *columns)


def _jsonl(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(_lines(path), start=1):
        try:
            values = json.loads(line)
            yield _checked(path, number, values["text"], values["english"])
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f'line {number} of {readable(path)} is not a pair; expected {{"text": "...", "english": "..."}}, got '
                f"{line.strip()[:60]!r}"
            ) from None


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the file of pairs {readable(path)}: {error}") from None
    return lines


def _checked(path: Path, number: int, text: object, english: object) -> tuple[str, str]:
    if not isinstance(text, str) or not isinstance(english, str):
        raise TypeError
    if not text.strip() or not english.strip():
        raise DataError(f"line {number} of {readable(path)} lacks its {'text' if not text.strip() else 'English text'}")
    return text.strip(), english.strip()
