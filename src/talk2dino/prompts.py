"""What users may say: a list of names, classes with synonyms, a text file; checked once, here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from talk2dino.errors import PromptError

#: Longest prompt in characters; CLIP reads 77 tokens at most, so longer ones could not be heard out anyway.
LONGEST_PROMPT = 500
MOST_PROMPTS = 20_000

Prompts = Sequence[str] | Mapping[str, str | Sequence[str]]


@dataclass(frozen=True)
class PromptList:
    """names: what labels are called. synonyms: for each name, the texts that are averaged. notes: what was changed."""

    names: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


def read_prompts(prompts: Prompts | PromptList) -> PromptList:
    """Check prompts and bring them into one form. Duplicates are kept once and noted.

    Args:
        prompts: a list of names, or a mapping from class to one or more synonyms or descriptions. An empty list of
            synonyms stands for the class name itself.

    Raises:
        PromptError: nothing given, a bare string, not text, empty, or longer than 500 characters.
    """
    if isinstance(prompts, PromptList):
        return prompts
    if isinstance(prompts, str):
        raise PromptError(
            f"prompts must be a list of names or a mapping, got the single string {prompts[:60]!r}; write [{prompts[:20]!r}]"
        )
    if isinstance(prompts, Mapping):
        pairs = [
            (_check(name), tuple(_check(s) for s in ([words] if isinstance(words, str) else words)) or (_check(name),))
            for name, words in prompts.items()
        ]
    elif isinstance(prompts, Iterable):
        pairs = [(name, (name,)) for name in map(_check, prompts)]
    else:
        raise PromptError(f"prompts must be a list of names or a mapping, got {type(prompts).__name__}")
    if not pairs:
        raise PromptError("no prompts were given; name at least one class, for example ['sky', 'grass']")
    if len(pairs) > MOST_PROMPTS:
        raise PromptError(f"{len(pairs)} prompts were given; at most {MOST_PROMPTS} are accepted")
    unique: dict[str, tuple[str, ...]] = {}
    repeated = []
    for name, words in pairs:
        if name in unique:
            repeated.append(name)
        unique.setdefault(name, words)
    notes = (f"duplicate prompts kept once: {', '.join(dict.fromkeys(repeated))}",) if repeated else ()
    return PromptList(tuple(unique), tuple(unique.values()), notes)


def _check(prompt: object) -> str:
    if not isinstance(prompt, str):
        raise PromptError(f"a prompt must be text, got {type(prompt).__name__}: {str(prompt)[:60]}")
    text = re.sub(r"\s+", " ", prompt).strip()
    if not text:
        raise PromptError("a prompt is empty; every prompt must name something")
    if len(text) > LONGEST_PROMPT:
        raise PromptError(
            f"a prompt has {len(text)} characters ({text[:40]!r}...); at most {LONGEST_PROMPT} are accepted, and the text "
            "model reads 77 tokens at most"
        )
    if "\x00" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise PromptError(f"a prompt holds characters that are not text: {text[:40]!r}")
    return text


def parse_prompts(text: str) -> PromptList:
    """Prompts from the command line: ``"sky, grass, car=red car|automobile"``; Chinese commas work too.

    A backslash keeps a comma: ``"salt\\, pepper"``.
    """
    entries = [re.sub(r"\\([,，、;；])", r"\1", part).strip() for part in re.split(r"(?<!\\)[,，、;；\n]", text)]
    entries = [entry for entry in entries if entry]
    if not entries:
        raise PromptError('no prompts were given; write them like --prompts "sky, grass, red car"')
    return read_prompts({} | _with_synonyms(entries)) if any("=" in e for e in entries) else read_prompts(entries)


def _with_synonyms(entries: Sequence[str]) -> dict[str, list[str]]:
    classes: dict[str, list[str]] = {}
    for entry in entries:
        name, _, words = entry.partition("=")
        classes.setdefault(name.strip(), [w.strip() for w in words.split("|") if w.strip()])
    return classes


def read_prompt_file(path: Path) -> PromptList:
    """Prompts from a file: .json / .yaml (a list, or class -> synonyms), or text with one class a line.

    In a text file ``car = red car | automobile`` gives synonyms; empty lines and lines that start with # are skipped.

    Raises:
        PromptError: no such file, not UTF-8 text, or nothing in it.
    """
    if not path.is_file():
        raise PromptError(f"no prompt file at {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise PromptError(f"the prompt file {path} cannot be read as UTF-8 text: {error}") from None
    if path.suffix.lower() in (".json", ".yaml", ".yml"):
        import yaml

        try:
            values = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
        except (ValueError, yaml.YAMLError) as error:
            raise PromptError(f"the prompt file {path} is not valid {path.suffix[1:].upper()}: {error}") from None
        if not isinstance(values, (list, dict)):
            raise PromptError(f"the prompt file {path} must hold a list of names or a mapping class -> synonyms")
        return read_prompts(values)
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise PromptError(f"the prompt file {path} names no class")
    return read_prompts(_with_synonyms(lines))
