"""The glossary: Chinese words to the English words that models read, without a network.

    斑马线 -> zebra crossing        红色的汽车 -> red car        一只小狗 -> puppy        桌子上的杯子 -> cup on the table

Words are looked up in a table of things, materials and parts (``assets/glossary/zh-en.tsv``). Words that are not in it are
composed: a number with a measure word is dropped, adjectives become English ones, and two known nouns form a compound.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

NOUNS, MODIFIERS = "zh-en.tsv", "zh-en-modifiers.tsv"
#: Characters of a text that is composed of several words.
LONGEST_COMPOSED = 24

_NUMBERS = "一二两兩三四五六七八九十百千几幾数數这這那每半"
_MEASURES = (
    "个個只隻辆輛条條张張把台臺座棵株朵匹头頭艘架件双雙本支枝根块塊片杯瓶碗盘盤盒箱袋串群排堆束盏盞扇幅间間栋棟所家位名口颗顆"
    "粒滴团團顶頂套种種对對副份些"
)
_COUNT = re.compile(rf"(?:[{_NUMBERS}]+|\d+)[{_MEASURES}]")
_PLACES = {
    "上面": "on", "上边": "on", "上邊": "on", "上": "on", "里面": "in", "裡面": "in", "裏面": "in", "里": "in", "裡": "in",
    "裏": "in", "中": "in", "下面": "under", "下": "under", "前面": "in front of", "前": "in front of", "后面": "behind",
    "後面": "behind", "后": "behind", "後": "behind", "旁边": "beside", "旁邊": "beside", "旁": "beside", "边": "beside",
    "邊": "beside",
}  # fmt: skip
_PLACE = re.compile(rf"(.+?)({'|'.join(_PLACES)})的(.+)")
_DOINGS = {
    "穿着": "wearing", "穿著": "wearing", "穿": "wearing", "戴着": "wearing", "戴著": "wearing", "戴": "wearing",
    "拿着": "holding", "拿著": "holding", "骑着": "riding", "騎著": "riding", "骑": "riding", "騎": "riding",
    "背着": "carrying", "背著": "carrying", "抱着": "holding", "抱著": "holding", "推着": "pushing", "推著": "pushing",
}  # fmt: skip
_DOING = re.compile(rf"({'|'.join(_DOINGS)})(.+)的(.+)")
_LATIN = re.compile(r"[a-z0-9][a-z0-9 .+/'-]*")
_HAN = r"㐀-䶿一-鿿豈-﫿"


@dataclass(frozen=True)
class Meaning:
    """What a text was understood as, and whether it stands in the table as it is or was composed of several words."""

    english: str
    how: str  # "glossary" or "glossary, composed"


class Glossary:
    """Chinese words to English ones.

    Args:
        nouns, modifiers: Chinese word to English words; the keys as :func:`simplify_text` gives them.
    """

    def __init__(self, nouns: Mapping[str, str], modifiers: Mapping[str, str]) -> None:
        self.nouns, self.modifiers = dict(nouns), dict(modifiers)
        self._longest = max(map(len, self.modifiers), default=0)

    def look_up(self, text: str) -> Meaning | None:
        """The English words of a Chinese text, or None if it has an unknown word."""
        key = simplify_text(text)
        if key in self.nouns:
            return Meaning(self.nouns[key], "glossary")
        composed = self._compose(key, {}) if len(key) <= LONGEST_COMPOSED else None
        return None if composed is None else Meaning(composed, "glossary, composed")

    def near(self, text: str, count: int = 3) -> list[tuple[str, str]]:
        """Entries that resemble a text, best first, as (Chinese, English); each English word once.

        Common characters at the end count more, because the last word of a Chinese noun says what kind of thing it is.
        """
        key = simplify_text(text)
        ranked = []
        for word in self.nouns:
            if set(word) & set(key):
                end = len(_common_end(word, key))
                likeness = difflib.SequenceMatcher(None, word, key).ratio() + 0.4 * end / max(len(word), len(key))
                ranked.append((-likeness, word))
        found: dict[str, str] = {}
        for likeness, word in sorted(ranked):
            if -likeness >= 0.5 and len(found) < count:
                found.setdefault(self.nouns[word], word)
        return [(word, english) for english, word in found.items()]

    def words_for(self, english: str) -> list[str]:
        """The Chinese words that are understood as some English words."""
        return [word for word, meaning in self.nouns.items() if meaning == english.strip().lower()]

    def _compose(self, key: str, known: dict[str, str | None]) -> str | None:
        if key not in known:
            known[key] = None  # for words that lead back here
            known[key] = next((found for found in self._readings(key, known) if found), None)
        return known[key]

    def _readings(self, key: str, known: dict[str, str | None]) -> Iterator[str | None]:
        """The ways to read a text, the likeliest first; None for those with an unknown word."""
        yield self.nouns.get(key)
        if count := _COUNT.match(key):
            yield self._compose(key[count.end() :], known)
        if place := _PLACE.fullmatch(key):
            where, what = self._compose(place[1], known), self._compose(place[3], known)
            word = "in" if where == "sky" else _PLACES[place[2]]
            yield f"{what} {word} the {where}" if where and what else None
        if doing := _DOING.fullmatch(key):
            thing, who = self._compose(doing[2], known), self._compose(doing[3], known)
            yield f"{who} {_DOINGS[doing[1]]} {thing}" if thing and who else None
        for length in range(min(self._longest, len(key) - 1), 0, -1):
            adjective = self.modifiers.get(key[:length])
            rest = adjective and self._compose(key[length:].removeprefix("的"), known)
            yield f"{adjective} {rest}" if rest else None
        if latin := _LATIN.match(key):
            rest = self._compose(key[latin.end() :], known)
            yield f"{latin[0].strip()} {rest}" if rest else None
        for length in range(len(key) - 1, 0, -1):
            first, rest = self.nouns.get(key[:length]), key[length:]
            joined = rest.startswith("的") or min(length, len(rest)) > 1  # single characters have too many meanings
            second = self._compose(rest.removeprefix("的"), known) if first and joined else None
            yield f"{first} {second}" if second else None


def simplify_text(text: str) -> str:
    """The form in which texts are looked up: NFKC, lower case, no space beside a Chinese character."""
    text = unicodedata.normalize("NFKC", text).lower()
    return re.sub(rf"\s+(?=[{_HAN}])|(?<=[{_HAN}])\s+", "", text).strip()


@lru_cache(maxsize=1)
def chinese_glossary() -> Glossary:
    """The glossary of the package."""
    nouns = {simplify_text(word): row[0] for row in _rows(NOUNS) for word in row[-1].split()}
    modifiers = {simplify_text(word): row[0] for row in _rows(MODIFIERS) for word in row[-1].split()}
    return Glossary(nouns, modifiers)


def benchmark_aliases() -> dict[str, str]:
    """Class names of benchmarks to the English words that the glossary has for them: ``wall-brick`` -> ``brick wall``."""
    return {alias: row[0] for row in _rows(NOUNS) for alias in row[1].split(", ") if alias}


def _rows(name: str) -> list[list[str]]:
    """The rows of a table, without comments and the line of column names."""
    text = (resources.files("talk2dino") / "assets" / "glossary" / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [line.split("\t") for line in lines[1:]]


def _common_end(first: str, second: str) -> str:
    length = 0
    while length < min(len(first), len(second)) and first[-1 - length] == second[-1 - length]:
        length += 1
    return first[len(first) - length :]
