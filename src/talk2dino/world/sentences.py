"""Captions of scenes, in English and Chinese.

Each caption names a random part of what is visible, sometimes with colours, sizes and relations. A few captions contain
a rare synonym, a sentence frame of the other language, or lack an article.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from talk2dino.world.scene import Rendered, Scene, Thing
from talk2dino.world.vocabulary import BACKGROUNDS, CLASSES, COLOURS_CHINESE, Concept

ENGLISH_FRAMES = (
    "{}", "{}", "a photo of {}", "a picture of {}", "a drawing of {}", "there is {}", "an image showing {}", "this is {}",
)  # fmt: skip
CHINESE_FRAMES = ("{}", "{}", "一张{}的照片", "一幅{}的图画", "图中有{}", "这是{}", "画面里有{}")
RARE = 0.12  # share of mentions that use a synonym
SMALLEST_SHARE = 0.015  # regions that cover a smaller share of the image are not mentioned


Named: TypeAlias = Concept | Thing  # a background, or an object of the scene


def write_captions(scene: Scene, rendered: Rendered, count: int = 4, *, chinese_share: float = 0.4) -> list[str]:
    """Write ``count`` captions of a scene; the same scene always gets the same captions."""
    rng = np.random.default_rng([scene.seed, 13])
    share = np.bincount(rendered.regions.reshape(-1), minlength=len(scene.things) + 2) / rendered.regions.size
    backgrounds = [BACKGROUNDS[kind] for i, kind in enumerate(scene.backgrounds) if share[i] >= SMALLEST_SHARE]
    things = [thing for i, thing in enumerate(scene.things, start=2) if share[i] >= SMALLEST_SHARE]
    if not backgrounds and not things:
        backgrounds = [BACKGROUNDS[scene.backgrounds[0]]]
    return [_write(backgrounds, things, rng, "zh" if rng.random() < chinese_share else "en") for _ in range(count)]


def _write(backgrounds: list[Concept], things: list[Thing], rng: np.random.Generator, language: str) -> str:
    named = [things[i] for i in rng.permutation(len(things))]
    places = [backgrounds[i] for i in rng.permutation(len(backgrounds))]
    kind = rng.random()
    say = _english if language == "en" else _chinese
    if not named or kind < 0.18:
        text = _join([say(m, rng) for m in places[: 1 if rng.random() < 0.7 else 2]] or [say(named[0], rng)], language)
    elif kind < 0.48 or (kind < 0.60 and not places):
        text = say(named[0], rng)
    elif kind < 0.72 and places:
        thing, place = say(named[0], rng), say(places[0], rng)
        if language == "en":
            text = f"{thing} {rng.choice(['on', 'in front of', 'and', 'with'])} {place}"
        else:
            text = str(rng.choice([f"{place}上的{thing}", f"{place}前的{thing}", f"{thing}和{place}"]))
    elif kind < 0.86 and len(named) > 1:
        text = _relation(named[0], named[1], rng, language)
    else:
        chosen = named[: int(rng.integers(1, len(named) + 1))] + places[: int(rng.integers(0, len(places) + 1))]
        text = _join([say(m, rng) for m in chosen], language)
    frames = ENGLISH_FRAMES if (language == "en") == (rng.random() < 0.95) else CHINESE_FRAMES
    return str(rng.choice(np.array(frames, dtype=object))).format(text)


def _word(words: tuple[str, ...], rng: np.random.Generator) -> str:
    return words[int(rng.integers(1, len(words)))] if rng.random() < RARE else words[0]


def _english(named: Named, rng: np.random.Generator) -> str:
    concept = named.concept if isinstance(named, Thing) else named
    phrase = _word(concept.english, rng)
    if isinstance(named, Thing):
        size = f"{named.size} " if named.size and rng.random() < 0.4 else ""
        colour = f"{named.colour} " if rng.random() < 0.5 else ""
        phrase = f"{size}{colour}{phrase}"
    if concept.mass or rng.random() < 0.2:
        return phrase if rng.random() < 0.9 else f"the {phrase}"
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _chinese(named: Named, rng: np.random.Generator) -> str:
    if isinstance(named, Concept):
        return _word(named.chinese, rng)
    noun = _word(named.concept.chinese, rng)
    colour = f"{COLOURS_CHINESE[named.colour]}的" if rng.random() < 0.5 else ""
    size = {"big": "大", "small": "小"}[named.size] if named.size and rng.random() < 0.4 else ""
    count = "一个" if rng.random() < 0.5 else ""
    return f"{count}{colour}{size}{noun}"


def _join(phrases: list[str], language: str) -> str:
    comma, final = ("、", "和") if language == "zh" else (", ", " and ")
    return comma.join(phrases[:-1]) + final + phrases[-1] if len(phrases) > 1 else phrases[0]


def _relation(a: Thing, b: Thing, rng: np.random.Generator, language: str) -> str:
    if abs(a.x - b.x) > abs(a.y - b.y):
        english, chinese = ("to the left of", "左边") if a.x < b.x else ("to the right of", "右边")
    else:
        english, chinese = ("above", "上面") if a.y < b.y else ("below", "下面")
    if language == "en":
        return f"{_english(a, rng)} {english} {_english(b, rng)}"
    return f"{_chinese(b, rng)}{chinese}的{_chinese(a, rng)}"


def all_caption_words() -> list[str]:
    """Every word for a class in both languages, which a tokenizer trained on captions must cover."""
    return [word for concept in CLASSES for word in (*concept.english, *concept.chinese)]
