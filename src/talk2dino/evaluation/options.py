"""What can be asked of an evaluation; flags and YAML files fill it, and it is written beside the result."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from talk2dino.errors import InputError
from talk2dino.evaluation.datasets import get_benchmark
from talk2dino.evaluation.world import PROMPT_VARIANTS
from talk2dino.methods import check_method


class EvaluationOptions(BaseModel):
    """One run: a benchmark, a system, a model, and every part of the protocol that may be overridden."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    benchmark: str = Field(description="voc21, voc20, context60, context59, coco-stuff, coco-object, cityscapes, ...")
    data: Path | None = Field(None, description="mmsegmentation's data folder, or the data set's own")
    method: str = Field("talk2dino", description="talk2dino, clip-dense, dino-clusters or freeda")
    method_options: dict[str, Any] = Field(default_factory=dict, description="such as prototypes, variant, segments")
    model: str = Field("auto", description="as in Segmenter.from_pretrained")
    projection: Path | None = None
    mode: Literal["slide", "whole", "square"] | None = Field(None, description="None: as published (slide)")
    background: float | None = Field(
        None, ge=-1, le=1, description="None: the model's threshold, if there is a background"
    )
    clean: bool | None = Field(None, description="None: as published (Pascal VOC 21 and COCO-Object)")
    refine: bool = False
    synonyms: Path | None = Field(None, description="file with class = synonym | synonym lines")
    prompts: str = Field("names", description="world: names, synonyms, template, upper, chinese, ...")
    held_out: Literal["one", "all"] | None = Field(None, description="world: objects in colours training never showed")
    limit: int | None = Field(None, ge=1, description="only the first pictures")
    device: str = "auto"
    dtype: str = "auto"

    @model_validator(mode="after")
    def _check(self) -> EvaluationOptions:
        get_benchmark(self.benchmark)
        check_method(self.method)
        if self.prompts not in PROMPT_VARIANTS:
            raise InputError(f"no prompt variant {self.prompts!r}; accepted: {', '.join(PROMPT_VARIANTS)}")
        if self.benchmark != "world" and (self.held_out or self.prompts != "names"):
            raise InputError(
                "held-out colours and prompt variants belong to the world benchmark; use a synonym file here"
            )
        return self

    @property
    def mode_used(self) -> str:
        """The protocol's mode, unless told otherwise."""
        if self.mode is not None:
            return self.mode
        return "whole" if self.benchmark == "world" or self.method == "dino-clusters" else "slide"

    @property
    def clean_used(self) -> bool:
        if self.clean is not None:
            return self.clean
        return self.method == "talk2dino" and get_benchmark(self.benchmark).clean

    def to_config(self) -> dict[str, Any]:
        """What decides the result, as plain values; where the data lie and on which device it ran do not."""
        values = self.model_dump(mode="json", exclude={"data", "device"})
        return {**values, "mode": self.mode_used, "clean": self.clean_used}


def make_options(values: dict[str, Any]) -> EvaluationOptions:
    """Options from flags or a YAML file.

    Raises:
        InputError: names the option that is wrong.
    """
    try:
        return EvaluationOptions(**values)
    except ValidationError as error:
        first = error.errors()[0]
        said, place = first["msg"].removeprefix("Value error, "), ".".join(map(str, first["loc"]))
        if not place:
            raise InputError(said) from None
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(place, EvaluationOptions.model_fields, n=2)
            said = "there is none of that name" + (f"; did you mean {' or '.join(near)}?" if near else "")
        raise InputError(f"evaluation option {place}: {said} (got {first.get('input')!r})") from None


def read_options_file(path: Path) -> dict[str, Any]:
    """A YAML file with options."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"the configuration {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"the configuration {path} must hold options, one 'name: value' a line")
    if not isinstance(values.get("method_options", {}), dict):
        raise InputError(f"the configuration {path}: method_options must hold 'name: value' lines of its own")
    return values


def parse_shard(text: str) -> tuple[int, int]:
    """ "2/8" to (2, 8)."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    number, total = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= total:
        raise InputError(f"--shard must be i/n with 1 <= i <= n, for example 2/8; got {text!r}")
    return number, total
