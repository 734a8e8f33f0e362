"""What is asked of the benchmark and what comes out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from talk2dino.device import choose_dtype
from talk2dino.engines import ENGINES, check_engine, check_engine_name
from talk2dino.errors import InputError, MissingExtraError

SECTIONS = ("machine", "pipeline", "agreement", "stages", "refinement", "text", "folder", "memory")


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        section: one of :data:`SECTIONS`. what: of what, in words.
        value: in ``unit``; "x" is a ratio of two times, "share" a ratio of two rates or of pixels.
        goal: the project's own bar, as ("<=" or ">=", number), for the models and sizes that it is set for.
        settings: model, dtype, batch size and engine, where they matter.
        detail: what else was seen, in words.
    """

    section: str
    what: str
    value: float
    unit: str
    goal: tuple[str, float] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    detail: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.goal is None:
            return None
        sign, bar = self.goal
        return self.value <= bar if sign == "<=" else self.value >= bar


@dataclass(frozen=True)
class Note:
    """What was not measured, and why. ``failed``: it was tried and went wrong."""

    section: str
    text: str
    failed: bool = False


@dataclass
class Results:
    """All that one run found."""

    figures: list[Figure] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def add(self, found: Figure | Note) -> None:
        if isinstance(found, Figure):
            self.figures.append(found)
        else:
            self.notes.append(found)

    @property
    def failed(self) -> bool:
        return any(note.failed for note in self.notes)


@dataclass(frozen=True)
class BenchOptions:
    """What to measure.

    Attributes:
        model: one of RANDOM_MODELS (published sizes, random weights), or what ``Segmenter.from_pretrained`` takes.
        device, dtypes, engines: every dtype with every engine; "auto" as for the Segmenter. Pairs that cannot work are
            left out with a note.
        batches: pictures a forward pass; None: 1 and 4, on a GPU 1 and 32. classes: prompts.
        turns: repetitions; medians are reported. sections: of :data:`SECTIONS`.
        compared_engines: whose labels the section "agreement" compares with the float32 reference path.
        folder_models: whose folder runs are measured; None: micro and ``model``.
        folder_seconds: about how long a folder run takes.
        plain_classes: class counts at which refinement meets the plain formulation (slow), at ``refined_size`` pixels.
        memory_pictures: length of the folder whose memory is watched.
    """

    model: str = "random-vitb"
    device: str = "auto"
    dtypes: Sequence[str] = ("auto",)
    engines: Sequence[str] = ("torch",)
    batches: Sequence[int] | None = None
    classes: int = 20
    turns: int = 5
    sections: Sequence[str] = SECTIONS
    compared_engines: Sequence[str] = ENGINES
    folder_models: Sequence[str] | None = None
    folder_seconds: float = 10.0
    plain_classes: Sequence[int] = (20, 150)
    refined_size: int = 448
    memory_pictures: int = 1000

    def __post_init__(self) -> None:
        wrong = [name for name in self.sections if name not in SECTIONS]
        if wrong:
            raise InputError(f"unknown section {wrong[0]!r}; accepted: {', '.join(SECTIONS)}")
        for what, values in (("dtype", self.dtypes), ("engine", self.engines), ("section", self.sections)):
            if not values:
                raise InputError(f"no {what} was given; name at least one")
        if self.turns < 1 or self.classes < 1 or (self.batches is not None and (min(self.batches, default=0) < 1)):
            raise InputError("turns, classes and batch sizes must be at least 1")


@dataclass(frozen=True)
class Pair:
    """A dtype and the engine that computes in it."""

    dtype: torch.dtype
    engine: str

    @property
    def settings(self) -> dict[str, Any]:
        return {"dtype": dtype_name(self.dtype), "engine": self.engine}

    def __str__(self) -> str:
        return f"{self.engine} in {dtype_name(self.dtype)}"


@dataclass(frozen=True)
class Plan:
    """Options made definite for a device: what is measured with what."""

    options: BenchOptions
    device: torch.device
    pairs: tuple[Pair, ...]
    notes: tuple[Note, ...]
    batches: tuple[int, ...]
    models: tuple[str, ...]  # of the pipeline
    folder_models: tuple[str, ...]


def make_plan(options: BenchOptions, device: torch.device) -> Plan:
    """Check everything before anything is measured.

    Raises:
        InputError: an unknown engine or dtype, or no dtype that works with any engine.
    """
    for engine in options.engines:
        check_engine_name(engine)
    pairs: dict[Pair, None] = {}
    notes: dict[Note, None] = {}
    for engine in options.engines:
        for name in options.dtypes:
            pair = Pair(choose_dtype(name, device, engine=engine), engine)
            try:
                check_engine(engine, device, pair.dtype)
                pairs[pair] = None
            except (InputError, MissingExtraError) as error:
                notes[Note("pipeline", f"{pair} is left out: {error}")] = None
    if not pairs:
        raise InputError(f"there is nothing to measure: {'; '.join(note.text for note in notes)}")
    if device.type != "cuda" and not torch.cuda.is_available():
        notes[Note("machine", "no GPU was at hand: nothing here was measured on one")] = None
    on_gpu = device.type == "cuda"
    return Plan(
        options, device, tuple(pairs), tuple(notes),
        batches=tuple(options.batches or ((1, 32) if on_gpu else (1, 4))),
        models=("random-vitb", "random-vitl") if on_gpu and options.model == "random-vitb" else (options.model,),
        folder_models=tuple(dict.fromkeys(options.folder_models or ("micro", options.model))),
    )  # fmt: skip


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
