"""Scripts and languages: in which letters a text is written, and which letters a language uses.

A script is the first word of the Unicode names of its letters: "LATIN", "CJK", "CYRILLIC". Languages that share a script
cannot be told apart by it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from talk2dino.errors import InputError, suggestion

LATIN, HAN = "LATIN", "CJK"

#: What messages call a script; the others are called by their own name, as in "Cyrillic".
_SCRIPT_NAMES = {
    LATIN: "Latin letters", HAN: "Chinese characters", "HIRAGANA": "Japanese kana", "KATAKANA": "Japanese kana",
    "HANGUL": "Korean letters",
}  # fmt: skip
#: Letters that belong to no script of their own.
_NEUTRAL = frozenset({"MODIFIER", "COMBINING"})
_ALIASES = {"IDEOGRAPHIC": HAN, "KATAKANA-HIRAGANA": "KATAKANA"}

#: Code of a language -> its English name, and its scripts.
LANGUAGES: dict[str, tuple[str, frozenset[str]]] = {
    code: (name, frozenset(scripts.split()))
    for scripts, languages in {
        LATIN: {
            "en": "English", "es": "Spanish", "fr": "French", "de": "German", "it": "Italian", "pt": "Portuguese",
            "nl": "Dutch", "pl": "Polish", "cs": "Czech", "sk": "Slovak", "hu": "Hungarian", "ro": "Romanian",
            "sv": "Swedish", "da": "Danish", "no": "Norwegian", "fi": "Finnish", "tr": "Turkish", "vi": "Vietnamese",
            "id": "Indonesian", "ms": "Malay", "sw": "Swahili", "et": "Estonian", "lv": "Latvian", "lt": "Lithuanian",
            "sl": "Slovenian", "hr": "Croatian", "ca": "Catalan", "eu": "Basque", "gl": "Galician", "is": "Icelandic",
            "ga": "Irish", "cy": "Welsh", "sq": "Albanian", "af": "Afrikaans", "tl": "Tagalog", "eo": "Esperanto",
        },
        HAN: {"zh": "Chinese"},
        f"{HAN} HIRAGANA KATAKANA": {"ja": "Japanese"},
        f"HANGUL {HAN}": {"ko": "Korean"},
        "CYRILLIC": {"ru": "Russian", "uk": "Ukrainian", "bg": "Bulgarian", "mk": "Macedonian", "kk": "Kazakh"},
        f"CYRILLIC {LATIN}": {"sr": "Serbian"},
        "ARABIC": {"ar": "Arabic", "fa": "Persian", "ur": "Urdu"},
        "HEBREW": {"he": "Hebrew"}, "GREEK": {"el": "Greek"}, "THAI": {"th": "Thai"}, "GEORGIAN": {"ka": "Georgian"},
        "DEVANAGARI": {"hi": "Hindi", "mr": "Marathi", "ne": "Nepali"}, "BENGALI": {"bn": "Bengali"},
        "TAMIL": {"ta": "Tamil"}, "TELUGU": {"te": "Telugu"}, "KHMER": {"km": "Khmer"}, "ARMENIAN": {"hy": "Armenian"},
        "ETHIOPIC": {"am": "Amharic"},
    }.items()
    for code, name in languages.items()
}  # fmt: skip


def scripts_of(text: str) -> frozenset[str]:
    """The scripts of the letters of a text. A single Greek letter is a symbol, as in "5 µm"; digits and emoji do not count."""
    letters = [c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c).startswith("L")]
    found = [unicodedata.name(letter, "UNKNOWN").split()[0] for letter in letters]
    if found.count("GREEK") == 1:
        found.remove("GREEK")
    return frozenset(_ALIASES.get(script, script) for script in found) - _NEUTRAL


def script_names(scripts: Iterable[str]) -> str:
    """Scripts for a message: ``"Chinese characters and Latin letters"``."""
    names = {_SCRIPT_NAMES.get(script, script.title()) for script in scripts}
    return " and ".join(sorted(names))


def scripts_of_languages(codes: Iterable[str]) -> frozenset[str]:
    """All scripts of some languages."""
    return frozenset().union(*(LANGUAGES[code][1] for code in check_languages(codes)))


def language_names(codes: Iterable[str]) -> str:
    """Languages for a message: ``"English and Chinese"``."""
    *others, last = [LANGUAGES[code][0] for code in check_languages(codes)]
    return f"{', '.join(others)} and {last}" if others else last


def check_languages(codes: Iterable[str]) -> tuple[str, ...]:
    """The codes, each once.

    Raises:
        InputError: an unknown code, or none.
    """
    checked = tuple(dict.fromkeys(codes))
    for code in checked:
        if code not in LANGUAGES:
            near = next((known for known, (name, _) in LANGUAGES.items() if name.lower() == str(code).lower()), None)
            hint = f"; did you mean {near}?" if near else suggestion(str(code), LANGUAGES)
            raise InputError(f"unknown language {code!r}{hint or '.'} Accepted: {', '.join(LANGUAGES)}")
    if not checked:
        raise InputError(f"name at least one language, such as en; accepted: {', '.join(LANGUAGES)}")
    return checked
