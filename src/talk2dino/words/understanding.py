"""What a model makes of prompts in other languages: as they are, by the glossary, by translation, or an error.

A model reads some languages (``languages`` in its configuration; English unless it says otherwise). Texts in their scripts
pass as they are. Chinese goes through the glossary, everything else through a translator if there is one. No text reaches
a model that cannot read its letters. Languages that share a script cannot be told apart: Spanish reaches an English model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from talk2dino.errors import PromptError
from talk2dino.words.glossary import chinese_glossary
from talk2dino.words.prompts import PromptList
from talk2dino.words.scripts import HAN, language_names, script_names, scripts_of, scripts_of_languages

#: (given, understood, how), such as ("斑马线", "zebra crossing", "glossary").
Understood = tuple[str, str, str]


#: (English, how), such as ("zebra crossing", "translated by Helsinki-NLP/opus-mt-zh-en").
Translation = tuple[str, str]


class Translator(Protocol):
    """Something that turns texts of other languages into English."""

    def reads(self, scripts: frozenset[str]) -> bool:
        """Whether texts in these scripts are to be translated."""

    def __call__(self, texts: Sequence[str]) -> list[Translation]:
        """The English of each text, and where it comes from."""


def understand(
    prompts: PromptList, model: str, languages: Sequence[str], translator: Translator | None = None
) -> tuple[PromptList, tuple[Understood, ...]]:
    """Replace the texts that a model cannot read by English ones; class names stay as the user wrote them.

    Args:
        model: its name, for messages.
        languages: codes of the languages that it reads.
        translator: for texts that the glossary does not have.

    Returns:
        The prompts with the texts to embed, and what was understood, in order.

    Raises:
        PromptError: a text in letters that the model does not read, which neither the glossary nor the translator knows.
    """
    texts = list(dict.fromkeys(text for synonyms in prompts.synonyms for text in synonyms))
    readable = scripts_of_languages(languages)
    if translator is None and all(scripts_of(text) <= readable for text in texts):
        return prompts, ()
    found: dict[str, Understood] = {}
    for text in texts if "en" in languages else ():
        if HAN not in readable and scripts_of(text) - readable == {HAN} and (known := chinese_glossary().look_up(text)):
            found[text] = (text, known.english, known.how)
    rest = [text for text in texts if text not in found]
    if translator is not None:
        wanted = [text for text in rest if translator.reads(scripts_of(text))]
        found |= {text: (text, *made) for text, made in zip(wanted, translator(wanted) if wanted else (), strict=True)}
    for text in rest:
        if text not in found and scripts_of(text) - readable:
            raise PromptError(_not_understood(text, model, languages, translator))
    changed = {text: english for text, english, _ in found.values()}
    synonyms = tuple(tuple(changed.get(text, text) for text in texts) for texts in prompts.synonyms)
    shown = tuple(found[text] for text in texts if text in found and changed[text] != text)
    return PromptList(prompts.names, synonyms, prompts.notes), shown


def describe_understood(understood: Iterable[Understood]) -> list[str]:
    """One line per text for people: ``斑马线 -> zebra crossing (glossary)``."""
    return [f"{given} -> {english} ({how})" for given, english, how in understood]


def _not_understood(text: str, model: str, languages: Sequence[str], translator: Translator | None) -> str:
    """The message for a text that the model cannot read, and that no one could turn into English."""
    scripts, known = scripts_of(text), language_names(languages)
    ways = ["use an English word" if "en" in languages else "use a word that it reads"]
    ways += [] if translator else ["--translate auto (a translation model)"]
    ways.append("--text FOLDER (a text tower of 'talk2dino train-text')")
    advice = f"{', '.join(ways[:-1])}{',' if len(ways) > 2 else ''} or {ways[-1]}"
    if len(scripts) > 1 and not scripts <= {HAN, "HIRAGANA", "KATAKANA"}:
        problem = f"the prompt {text[:60]!r} mixes {script_names(scripts)}"
    elif scripts == {HAN} and "en" in languages:
        problem = f"the glossary has no English for {text[:60]!r}"
    else:
        problem = f"the prompt {text[:60]!r} is written in {script_names(scripts)}, and the glossary knows Chinese only"
    near = chinese_glossary().near(text) if HAN in scripts and "en" in languages else []
    hint = f"; did you mean {' or '.join(f'{word} ({english})' for word, english in near)}?" if near else "."
    return f"{problem}{hint} The model {model} reads {known}: {advice}"
