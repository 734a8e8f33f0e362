"""The ninth benchmark: procedural scenes, which need no download.

Test scenes have seeds from 10,000,000 on; training scenes have seeds below 1,000,000.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from talk2dino.errors import InputError
from talk2dino.evaluation.metrics import ConfusionMatrix, Metrics, percent
from talk2dino.world import BACKGROUNDS, CLASS_NAMES, CLASSES, OBJECTS, render, sample_scene

FIRST_TEST_SEED = 10_000_000
SCENE_HEIGHT = 96
#: Ways to ask for the same 16 classes; only "names" uses the captions' usual words.
PROMPT_VARIANTS = ("names", "synonyms", "other-synonyms", "template", "upper", "chinese", "chinese-synonyms")

BACKGROUND_CLASSES = tuple(range(len(BACKGROUNDS)))
OBJECT_CLASSES = tuple(range(len(BACKGROUNDS), len(BACKGROUNDS) + len(OBJECTS)))


@dataclass(frozen=True)
class WorldFigures:
    """Figures on scenes: all classes, the eight backgrounds ("stuff") and the eight objects."""

    metrics: Metrics
    scenes: int

    @property
    def miou(self) -> float:
        return self.metrics.miou

    @property
    def backgrounds(self) -> float:
        return self.metrics.miou_of(BACKGROUND_CLASSES)

    @property
    def objects(self) -> float:
        return self.metrics.miou_of(OBJECT_CLASSES)

    def as_dict(self) -> dict[str, Any]:
        return {
            "scenes": self.scenes,
            **self.metrics.as_dict(),
            "background_miou": percent(self.backgrounds),
            "object_miou": percent(self.objects),
        }


def held_out_seeds(count: int = 300) -> range:
    """Seeds of the first ``count`` test scenes."""
    return range(FIRST_TEST_SEED, FIRST_TEST_SEED + count)


def world_prompts(variant: str = "names") -> list[str]:
    """The 16 prompts, in label order, in one of :data:`PROMPT_VARIANTS`."""
    ways: dict[str, Callable[[Any], str]] = {
        "names": lambda concept: concept.name,
        "synonyms": lambda concept: concept.english[1],
        "other-synonyms": lambda concept: concept.english[2],
        "template": lambda concept: f"a close-up view of the {concept.name}",
        "upper": lambda concept: concept.name.upper(),
        "chinese": lambda concept: concept.chinese[0],
        "chinese-synonyms": lambda concept: concept.chinese[1],
    }
    if variant not in ways:
        raise InputError(f"prompt variant {variant!r} is not known; choose one of {', '.join(PROMPT_VARIANTS)}")
    return [ways[variant](concept) for concept in CLASSES]


def evaluate_world(
    segment: Any,
    seeds: Iterable[int] | None = None,
    *,
    held_out: bool | Literal["all"] = False,
    prompts: Sequence[str] | None = None,
    height: int = SCENE_HEIGHT,
    aspect: float = 1.0,
    **options: Any,
) -> WorldFigures:
    """Segment test scenes with all 16 class names prompted at once and compare with the drawn masks.

    Args:
        segment: a function from a picture (H, W, 3) uint8 to labels (H, W) in the order of ``world.CLASS_NAMES``, or an
            object with ``segment(image, prompts, **options) -> Segmentation`` (a Segmenter or another method).
        seeds: scene seeds; the 300 test scenes when None.
        held_out: paint one object of each scene ("all": every object) in a colour that no training scene shows on it.
        prompts: 16 prompts in label order; the class names when None.
        height, aspect: size of the drawn pictures in pixels, and width / height.
        options: passed on to ``segment.segment``.
    """
    words = list(prompts) if prompts is not None else list(CLASS_NAMES)
    if len(words) != len(CLASS_NAMES):
        raise InputError(f"the world has {len(CLASS_NAMES)} classes; got {len(words)} prompts")
    matrix = ConfusionMatrix(CLASS_NAMES)
    scenes = 0
    for seed in held_out_seeds() if seeds is None else seeds:
        drawn = render(sample_scene(seed, aspect=aspect, held_out=held_out), height)
        if hasattr(segment, "segment"):
            labels = segment.segment(drawn.image, words, **options).labels
        else:
            labels = segment(drawn.image)
        matrix.update(labels, drawn.labels)
        scenes += 1
    return WorldFigures(matrix.metrics(), scenes)
