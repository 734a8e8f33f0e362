"""Prompts: a list of names, classes with synonyms, a line of text or a file -> one checked form."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from talk2dino.errors import InputError, PromptError
from talk2dino.io.names import SURROGATE, readable
from talk2dino.io.settings import read_document

LONGEST_PROMPT = 500
"""Characters of a prompt. CLIP reads 77 tokens, so the text model would not see more."""

MOST_PROMPTS = 20_000

Prompts = str | Sequence[str] | Mapping[str, str | Sequence[str] | None]

_SEPARATORS = ",，、;；\n"  # between classes, in Latin and Chinese typing


@dataclass(frozen=True)
class PromptList:
    """Checked prompts: class names, the texts whose embeddings are averaged for each, and notes on what was changed."""

    names: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


def read_prompts(prompts: Prompts | PromptList) -> PromptList:
    """Check prompts and convert them to one form. Duplicates are kept once and noted.

    Args:
        prompts: a list of names; a mapping from each class to its synonyms or descriptions (one text or a list of them;
            None or an empty list stands for the class name); or one string, which is split at commas as on the command
            line (:func:`parse_prompts`).

    Raises:
        PromptError: no prompts, or one that is not text, empty, without a letter or digit, or longer than 500 characters.
    """
    if isinstance(prompts, PromptList):
        return prompts
    if isinstance(prompts, str):
        return parse_prompts(prompts)
    if isinstance(prompts, Mapping):
        return _collect(prompts.items())
    if isinstance(prompts, Iterable) and not isinstance(prompts, bytes):
        return _collect((name, None) for name in prompts)
    raise PromptError(f"prompts must be a list of names or a mapping, got {type(prompts).__name__}")


def parse_prompts(text: str) -> PromptList:
    """Read prompts from one string: ``"sky, grass, car=red car|automobile"``; Chinese commas and semicolons work too.

    A backslash keeps a comma: ``"salt\\, pepper"``. Comments (``# ...``) belong in prompt files and are refused here.

    Raises:
        PromptError: as :func:`read_prompts`; also ``|`` without ``NAME=`` before it, or a comment.
    """
    entries = re.split(rf"(?<!\\)[{_SEPARATORS}]", text)
    entries = [re.sub(rf"\\([{_SEPARATORS}])", r"\1", entry).strip() for entry in entries]
    for entry in entries:
        if re.search(r"(^|\s)#", entry):
            raise PromptError(
                f"the prompt {entry[:60]!r} contains a comment; only prompt files may: remove it from '#' on"
            )
    return _collect(_name_and_synonyms(entry) for entry in entries if entry)


def read_prompt_file(path: str | Path) -> PromptList:
    """Read prompts from a file: .json or .yaml (a list, or class -> synonyms), or text with one class per line.

    In a text file, ``car = red car | automobile`` gives synonyms, and ``#`` at the start of a line or after a space
    starts a comment.

    Raises:
        PromptError: no such file, not UTF-8 text, or no valid prompts in it; the message names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise PromptError(f"no prompt file at {readable(path)}")
    try:
        if path.suffix.lower() in (".json", ".yaml", ".yml"):
            values = read_document(path, "prompt file")
            if not isinstance(values, list | dict):
                raise PromptError("expected a list of names, or a mapping from each class to its synonyms")
            return read_prompts(values)
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        classes = [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines]
        found = _collect(_name_and_synonyms(line) for line in classes if line)
    except (UnicodeDecodeError, OSError) as error:
        raise PromptError(f"cannot read the prompt file {readable(path)} as UTF-8 text: {error}") from None
    except PromptError as error:
        raise PromptError(f"prompt file {readable(path)}: {error}") from None
    except InputError as error:
        raise PromptError(str(error)) from None
    commas = [name for name in found.names if re.search(rf"[{_SEPARATORS}]", name)]
    notes = [f"{name[:60]!r} is one class: a prompt file has one class per line" for name in commas[:1]]
    return PromptList(found.names, found.synonyms, (*found.notes, *notes))


def _name_and_synonyms(entry: str) -> tuple[str, list[str]]:
    """``"car = red car | automobile"`` -> ("car", ["red car", "automobile"])."""
    name, equals, words = entry.partition("=")
    if "|" in name:
        raise PromptError(
            f"the prompt {entry[:60]!r} has synonyms but no class name; write NAME={entry[:60].strip(' |') or 'A|B'}"
        )
    if equals and not name.strip():
        raise PromptError(f"the prompt {entry[:60]!r} has no class name before '='; write NAME=synonym|synonym")
    return name, [word for word in words.split("|") if word.strip()]


def _collect(classes: Iterable[tuple[object, object]]) -> PromptList:
    """Check (name, synonyms) pairs; the synonyms are one text, several, or None."""
    unique: dict[str, tuple[str, ...]] = {}
    repeated: dict[str, None] = {}
    for given, words in classes:
        if isinstance(words, str) or words is None:
            words = () if words is None else (words,)
        if not isinstance(words, Iterable) or isinstance(words, Mapping | bytes):
            raise PromptError(
                f"the synonyms of {str(given)[:60]!r} must be a text or a list of texts, got {type(words).__name__}; "
                "classes cannot be nested"
            )
        name = _check(given)
        if name in unique:
            repeated[name] = None
        unique.setdefault(name, tuple(map(_check, words)) or (name,))
    if not unique:
        raise PromptError('no prompts were given; name at least one class, for example "sky, grass"')
    if len(unique) > MOST_PROMPTS:
        raise PromptError(f"{len(unique):,} prompts were given; at most {MOST_PROMPTS:,} are accepted")
    notes = (f"duplicate prompts kept once: {', '.join(repeated)}",) if repeated else ()
    return PromptList(tuple(unique), tuple(unique.values()), notes)


def _check(prompt: object) -> str:
    if not isinstance(prompt, str):
        advice = "; put it in quotes" if isinstance(prompt, bool | int | float) else ""
        raise PromptError(f"a prompt must be text, got {type(prompt).__name__} {str(prompt)[:60]}{advice}")
    text = re.sub(r"\s+", " ", prompt).strip()
    if not text:
        raise PromptError("a prompt is empty; every prompt must name something")
    if len(text) > LONGEST_PROMPT:
        raise PromptError(
            f"a prompt has {len(text)} characters ({text[:40]!r}...); at most {LONGEST_PROMPT} are accepted, because the "
            "text model reads at most 77 tokens"
        )
    if "\x00" in text or SURROGATE.search(text):
        raise PromptError(f"a prompt contains characters that are not text: {text[:40]!r}")
    if not any(unicodedata.category(c) in _MEANINGFUL for c in text):
        raise PromptError(f"the prompt {text[:40]!r} has no letter, digit or symbol that names something")
    return text


_MEANINGFUL = ("Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Nl", "No", "So")  # letters, digits, emoji
