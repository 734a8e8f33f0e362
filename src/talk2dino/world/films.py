"""Drawn films with an exact mask for every frame: objects that move, a camera that pans, cuts.

    seed -> sample_film -> Film -> render_frame(number) -> image and labels

A film is a few shots, one after the other, with a cut between them. A shot is a scene whose objects move along slightly
wavy lines, seen by a camera that stands still or pans. The frames of a shot share their textures; the pixel noise is new
in each frame, as in a real camera.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from talk2dino.errors import InputError
from talk2dino.world.scene import UNITS, Rendered, Scene, Thing, render, sample_scene

#: Speeds in scene units (1/96 of the height) per second.
_OBJECT_SPEED = (6.0, 24.0)
_PAN_SPEED = (8.0, 20.0)


@dataclass(frozen=True)
class Motion:
    """How one object moves: velocity in scene units per second; a wave across it and a slow rotation."""

    velocity: tuple[float, float]
    wave: float  # amplitude, in scene units
    phase: float
    turn: float  # radians per second


@dataclass(frozen=True)
class Shot:
    """A scene in motion. ``pan``: velocity of the camera, in scene units per second; (0, 0) for a camera at rest."""

    scene: Scene
    motions: tuple[Motion, ...]
    pan: tuple[float, float]
    frames: int


@dataclass(frozen=True)
class Film:
    """Some shots, one after the other, at ``rate`` frames per second."""

    seed: int
    shots: tuple[Shot, ...]
    rate: float

    def __len__(self) -> int:
        return sum(shot.frames for shot in self.shots)


def sample_film(seed: int, *, frames: int = 96, shots: int = 2, rate: float = 24.0, aspect: float = 1.5) -> Film:
    """Sample a film from a seed.

    Args:
        seed: any non-negative integer; the same seed gives the same film.
        frames: length of the film, divided evenly among the shots.
        shots: every second one, beginning with the first or the second, is a pan.
        rate: frames per second.
        aspect: width / height.

    Raises:
        InputError: fewer frames than shots.
    """
    if not 1 <= shots <= frames:
        raise InputError(f"a film needs at least one shot, and one frame per shot; got {shots} shots, {frames} frames")
    rng = np.random.default_rng([seed, 15])
    panned = int(rng.integers(2))
    lengths = np.diff(np.linspace(0, frames, shots + 1).astype(int)).tolist()
    return Film(seed, tuple(
        _sample_shot(seed * 31 + number, length, length / rate, number % 2 == panned, aspect, rng)
        for number, length in enumerate(lengths)
    ), rate)  # fmt: skip


def _sample_shot(seed: int, frames: int, seconds: float, panned: bool, aspect: float, rng: np.random.Generator) -> Shot:
    scene = sample_scene(seed, aspect=aspect)
    pan = (0.0, 0.0)
    if panned:
        pan = (float(rng.choice([-1, 1]) * rng.uniform(*_PAN_SPEED)), float(rng.uniform(-2, 2)))
    things, motions = [], []
    for thing in scene.things:
        speed = float(rng.uniform(*_OBJECT_SPEED))
        toward = 1 if thing.x < UNITS * aspect / 2 else -1  # objects cross the view rather than leave it
        velocity = (toward * speed + pan[0], float(rng.normal(0, 0.25)) * speed)
        motions.append(Motion(velocity, *map(float, (rng.uniform(0, 2), rng.uniform(0, 6), rng.normal(0, 0.15)))))
        # In the middle of the shot an object is where the still shows it.
        middle = (thing.x - (velocity[0] - pan[0]) * seconds / 2, thing.y - velocity[1] * seconds / 2)
        things.append(replace(thing, x=middle[0], y=middle[1]))
    return Shot(replace(scene, things=tuple(things)), tuple(motions), pan, frames)


def render_frame(film: Film, number: int, height: int = 96, *, supersample: int = 2, noise: float = 0.015) -> Rendered:
    """Draw one frame of a film; the arguments are those of :func:`talk2dino.world.render`.

    Raises:
        InputError: the film has no frame of that number.
    """
    shot, frame = _find(film, number)
    camera, things = _pose(shot, frame / film.rate)
    scene = replace(shot.scene, things=things)
    return render(scene, height, supersample=supersample, noise=noise, camera=camera, grain=frame)


def render_film(film: Film, height: int = 96, **options: float) -> Iterator[Rendered]:
    """All frames, one after the other."""
    return (render_frame(film, number, height, **options) for number in range(len(film)))  # type: ignore[arg-type]


def exact_motion(film: Film, number: int, regions: np.ndarray) -> np.ndarray:
    """Where the content of each pixel was in the frame before.

    Args:
        regions: (H, W) of this frame, from :func:`render_frame`.

    Returns:
        (2, H, W) float64: x and y of the position in the frame before, in pixels (pixel centres are whole numbers; positions
        may lie outside the image). NaN in the first frame of a shot.
    """
    height, width = regions.shape
    places = np.full((2, height, width), np.nan)
    shot, frame = _find(film, number)
    if frame == 0:
        return places
    unit = UNITS / height
    y, x = np.mgrid[:height, :width]
    now, before = (_pose(shot, moment / film.rate) for moment in (frame, frame - 1))
    shift = [(after - earlier) / unit for after, earlier in zip(now[0], before[0], strict=True)]
    places[0], places[1] = x + shift[0], y + shift[1]
    for region, (new, old) in enumerate(zip(now[1], before[1], strict=True), start=2):
        inside = regions == region
        dx = (x[inside] + 0.5) * unit + now[0][0] - new.x
        dy = (y[inside] + 0.5) * unit + now[0][1] - new.y
        cos, sin = math.cos(old.angle - new.angle), math.sin(old.angle - new.angle)
        places[0][inside] = (cos * dx - sin * dy + old.x - before[0][0]) / unit - 0.5
        places[1][inside] = (sin * dx + cos * dy + old.y - before[0][1]) / unit - 0.5
    return places


def _find(film: Film, number: int) -> tuple[Shot, int]:
    """The shot of a frame, and the number of the frame in it."""
    first = 0
    for shot in film.shots:
        if first <= number < first + shot.frames:
            return shot, number - first
        first += shot.frames
    raise InputError(f"the film has frames 0 to {len(film) - 1}; got {number}")


def _pose(shot: Shot, seconds: float) -> tuple[tuple[float, float], tuple[Thing, ...]]:
    """Position of the camera, and the objects where they are, ``seconds`` after the shot began."""
    return (shot.pan[0] * seconds, shot.pan[1] * seconds), tuple(
        replace(
            thing,
            x=thing.x + motion.velocity[0] * seconds,
            y=thing.y + motion.velocity[1] * seconds + motion.wave * math.sin(2 * seconds + motion.phase),
            angle=thing.angle + motion.turn * seconds,
        )
        for thing, motion in zip(shot.scene.things, shot.motions, strict=True)
    )
