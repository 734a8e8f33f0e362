"""What to measure: the options of ``talk2dino bench``, and what they mean on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from talk2dino.device import choose_device, choose_dtype
from talk2dino.engines import ENGINES, check_engine, check_engine_name
from talk2dino.errors import InputError, MissingExtraError, suggestion
from talk2dino.speed.figures import Note

SECTIONS = ("machine", "pipeline", "agreement", "stages", "refinement", "text", "folder", "memory")
#: ``--quick``: fewer turns, shorter folders, and without what takes longest.
QUICK: dict[str, Any] = {
    "turns": 2, "folder_seconds": 2.0, "plain_classes": (20,), "sections": SECTIONS[:-1],
    "compared_engines": tuple(engine for engine in ENGINES if engine != "compile"),
}  # fmt: skip

Count = Annotated[int, Field(ge=1)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]


class BenchOptions(BaseModel):
    """Options of a benchmark run. Every dtype is measured with every engine; pairs that cannot work become notes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field("random-vitb", description="random-vits, -vitb, -vitl, or as in Segmenter.from_pretrained")
    device: str = "auto"
    dtypes: Names = Field(default=("auto",), description="as in Segmenter.from_pretrained")
    engines: Names = Field(default=("torch",), description=", ".join(ENGINES))
    batches: Annotated[tuple[Count, ...], Field(min_length=1)] | None = Field(
        None, description="images per forward pass; None: 1 and 4, on a GPU 1 and 32"
    )
    classes: int = Field(default=20, ge=1, le=1000, description="prompts")
    turns: int = Field(default=5, ge=1, le=100, description="repetitions; medians are reported")
    sections: Names = Field(default=SECTIONS, description=", ".join(SECTIONS))
    compared_engines: tuple[str, ...] = Field(default=ENGINES, description="engines of the section 'agreement'")
    folder_models: Names | None = Field(None, description="models of the section 'folder'; None: micro and the model")
    folder_seconds: float = Field(default=10.0, gt=0, description="approximate duration of one folder run, in seconds")
    plain_classes: tuple[Count, ...] = Field((20, 150), description="classes of the section 'refinement' (slow)")
    refined_size: Count = Field(default=448, description="side of the refined maps, in pixels")
    memory_images: Count = Field(default=1000, description="length of the folder whose memory is measured")

    @model_validator(mode="after")
    def _known_sections(self) -> BenchOptions:
        for name in set(self.sections) - set(SECTIONS):
            raise InputError(f"unknown section {name!r}{suggestion(name, SECTIONS)}; accepted: {', '.join(SECTIONS)}")
        return self


@dataclass(frozen=True)
class Pair:
    """A dtype, and the engine that computes in it."""

    dtype: torch.dtype
    engine: str

    @property
    def settings(self) -> dict[str, str | int]:
        return {"dtype": dtype_name(self.dtype), "engine": self.engine}

    def __str__(self) -> str:
        return f"{self.engine} in {dtype_name(self.dtype)}"


@dataclass(frozen=True)
class Plan:
    """Options made definite for a device; ``models`` are those of the section "pipeline"."""

    options: BenchOptions
    device: torch.device
    pairs: tuple[Pair, ...]
    notes: tuple[Note, ...]
    batches: tuple[int, ...]
    models: tuple[str, ...]
    folder_models: tuple[str, ...]


def make_plan(options: BenchOptions, device: torch.device | None = None) -> Plan:
    """Check the options against a device (by default the one that they name) before anything is measured.

    Raises:
        InputError: an unknown device, engine or dtype, or no dtype that works with any engine.
    """
    device = choose_device(options.device) if device is None else device
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
                notes[Note("pipeline", f"{pair} is skipped: {error}")] = None
    if not pairs:
        raise InputError(f"there is nothing to measure: {'; '.join(note.text for note in notes)}")
    if device.type != "cuda" and not torch.cuda.is_available():
        notes[Note("machine", "this machine has no GPU; nothing was measured on one")] = None
    on_gpu = device.type == "cuda"
    return Plan(
        options, device, tuple(pairs), tuple(notes),
        batches=options.batches or ((1, 32) if on_gpu else (1, 4)),
        models=("random-vitb", "random-vitl") if on_gpu and options.model == "random-vitb" else (options.model,),
        folder_models=tuple(dict.fromkeys(options.folder_models or ("micro", options.model))),
    )  # fmt: skip


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
