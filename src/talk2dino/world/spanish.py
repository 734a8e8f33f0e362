"""Captions of the drawn world in English with their Spanish rendering: pairs to distil a Spanish text tower from.

The sentences have the forms of :mod:`talk2dino.world.sentences`. They need no scene, because only their words matter here.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from talk2dino.world.sentences import RARE
from talk2dino.world.vocabulary import BACKGROUNDS, CLASSES, OBJECTS, Concept

#: Words for each class in the order of its English words; "f" or "m" is the gender.
SPANISH: dict[str, tuple[tuple[str, str], ...]] = {
    "sky": (("cielo", "m"), ("cielo diurno", "m"), ("firmamento", "m")),
    "grass": (("hierba", "f"), ("césped", "m"), ("pradera", "f")),
    "water": (("agua", "f"), ("mar", "m"), ("lago", "m")),
    "sand": (("arena", "f"), ("playa", "f"), ("desierto", "m")),
    "brick wall": (("pared de ladrillo", "f"), ("ladrillos", "m"), ("mampostería", "f")),
    "wood floor": (("suelo de madera", "m"), ("tablones de madera", "m"), ("tarima", "f")),
    "night sky": (("cielo nocturno", "m"), ("cielo estrellado", "m"), ("estrellas", "f")),
    "road": (("carretera", "f"), ("calle", "f"), ("asfalto", "m")),
    "ball": (("pelota", "f"), ("pelota de playa", "f"), ("esfera", "f")),
    "box": (("caja", "f"), ("cajón", "m"), ("cubo", "m")),
    "tree": (("árbol", "m"), ("pino", "m"), ("planta", "f")),
    "house": (("casa", "f"), ("cabaña", "f"), ("edificio", "m")),
    "fish": (("pez", "m"), ("pez dorado", "m"), ("carpa", "f")),
    "mushroom": (("seta", "f"), ("seta venenosa", "f"), ("hongo", "m")),
    "car": (("coche", "m"), ("automóvil", "m"), ("vehículo", "m")),
    "boat": (("barco", "m"), ("velero", "m"), ("buque", "m")),
}
#: English colour -> masculine and feminine.
COLOURS_SPANISH: dict[str, tuple[str, str]] = {
    "red": ("rojo", "roja"), "orange": ("naranja", "naranja"), "yellow": ("amarillo", "amarilla"),
    "green": ("verde", "verde"), "blue": ("azul", "azul"), "purple": ("morado", "morada"), "pink": ("rosa", "rosa"),
    "white": ("blanco", "blanca"), "black": ("negro", "negra"),
}  # fmt: skip
_SIZES = {"big": ("grande", "grande"), "small": ("pequeño", "pequeña")}
_FRAMES = (
    ("{}", "{}"), ("{}", "{}"), ("a photo of {}", "una foto de {}"), ("a picture of {}", "una imagen de {}"),
    ("a drawing of {}", "un dibujo de {}"), ("there is {}", "hay {}"), ("an image showing {}", "una imagen que muestra {}"),
    ("this is {}", "esto es {}"),
)  # fmt: skip
_RELATIONS = (
    ("on", "sobre"), ("in front of", "delante de"), ("and", "y"), ("with", "con"), ("above", "encima de"),
    ("below", "debajo de"), ("to the left of", "a la izquierda de"), ("to the right of", "a la derecha de"),
)  # fmt: skip
Phrases: TypeAlias = tuple[str, str]  # the same in English and Spanish


def spanish_names() -> dict[str, str]:
    """Class name -> its usual Spanish word."""
    return {concept.name: SPANISH[concept.name][0][0] for concept in CLASSES}


def write_pairs(count: int, seed: int = 0) -> list[Phrases]:
    """``count`` captions as (Spanish, English); the same seed gives the same captions."""
    rng = np.random.default_rng([seed, 17])
    return [_sentence(rng)[::-1] for _ in range(count)]


def _sentence(rng: np.random.Generator) -> Phrases:
    kind = rng.random()
    if kind < 0.6:
        english, spanish = _phrase(_any(rng), rng)
    elif kind < 0.8:
        first, second = _phrase(OBJECTS[int(rng.integers(len(OBJECTS)))], rng), _phrase(_any(rng), rng)
        between = _RELATIONS[int(rng.integers(len(_RELATIONS)))]
        english, spanish = (f"{a} {word} {b}" for a, word, b in zip(first, between, second, strict=True))
    else:
        phrases = [_phrase(_any(rng), rng) for _ in range(int(rng.integers(2, 4)))]
        english, spanish = (
            f"{', '.join(one[:-1])} {word} {one[-1]}"
            for word, one in zip(("and", "y"), zip(*phrases, strict=True), strict=True)
        )
    frame = _FRAMES[int(rng.integers(len(_FRAMES)))]
    return frame[0].format(english), frame[1].format(spanish)


def _any(rng: np.random.Generator) -> Concept:
    several = BACKGROUNDS if rng.random() < 0.5 else OBJECTS
    return several[int(rng.integers(len(several)))]


def _phrase(concept: Concept, rng: np.random.Generator) -> Phrases:
    """A class with perhaps an article, a colour and a size: ("a small red ball", "una pelota roja pequeña")."""
    word = int(rng.integers(1, 3)) if rng.random() < RARE else 0
    english, (spanish, gender) = concept.english[word], SPANISH[concept.name][word]
    place = 0 if gender == "m" else 1
    if concept.colours and rng.random() < 0.5:
        colour = str(rng.choice(list(COLOURS_SPANISH)))
        english, spanish = f"{colour} {english}", f"{spanish} {COLOURS_SPANISH[colour][place]}"
    if concept.colours and rng.random() < 0.25:
        size = str(rng.choice(list(_SIZES)))
        english, spanish = f"{size} {english}", f"{spanish} {_SIZES[size][place]}"
    if concept.mass or spanish.split()[0].endswith("s") or rng.random() < 0.3:
        return english, spanish
    return f"{'an' if english[0] in 'aeiou' else 'a'} {english}", f"{('un', 'una')[place]} {spanish}"
