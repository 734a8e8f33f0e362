"""The ninth benchmark: procedural scenes, which need no download.

Test scenes have seeds from 10,000,000 on, training scenes seeds below 1,000,000.
"""

from __future__ import annotations

from collections.abc import Callable

from talk2dino.errors import InputError
from talk2dino.world import BACKGROUNDS, CLASSES, OBJECTS, Concept

FIRST_TEST_SEED = 10_000_000
SCENE_COUNT = 300
#: Label values of the eight backgrounds ("stuff") and of the eight objects.
BACKGROUND_CLASSES = tuple(range(len(BACKGROUNDS)))
OBJECT_CLASSES = tuple(range(len(BACKGROUNDS), len(BACKGROUNDS) + len(OBJECTS)))

_WORDINGS: dict[str, Callable[[Concept], str]] = {
    "names": lambda concept: concept.name,
    "synonyms": lambda concept: concept.english[1],
    "other-synonyms": lambda concept: concept.english[2],
    "template": lambda concept: f"a close-up view of the {concept.name}",
    "upper": lambda concept: concept.name.upper(),
    "chinese": lambda concept: concept.chinese[0],
    "chinese-synonyms": lambda concept: concept.chinese[1],
}
#: Ways to prompt the same 16 classes. Training captions mostly use the words of "names" and "chinese".
PROMPT_VARIANTS = tuple(_WORDINGS)


def held_out_seeds(count: int = SCENE_COUNT) -> range:
    """Seeds of the first ``count`` test scenes."""
    return range(FIRST_TEST_SEED, FIRST_TEST_SEED + count)


def world_prompts(variant: str = "names") -> list[str]:
    """The 16 prompts, in label order; ``variant`` is one of :data:`PROMPT_VARIANTS`."""
    if variant not in _WORDINGS:
        raise InputError(f"unknown prompt variant {variant!r}; accepted: {', '.join(PROMPT_VARIANTS)}")
    return [_WORDINGS[variant](concept) for concept in CLASSES]
