"""Options of an evaluation and of a comparison; flags and YAML files fill them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from talk2dino.device import check_device_name
from talk2dino.errors import InputError
from talk2dino.evaluation.datasets import BENCHMARKS, Benchmark, get_benchmark
from talk2dino.evaluation.world import PROMPT_VARIANTS, world_prompts
from talk2dino.io.settings import build_options, parse_values
from talk2dino.methods import check_method, check_options, method_facts, method_names, option_names
from talk2dino.words.translate import check_language_options

if TYPE_CHECKING:
    from typing_extensions import Self

#: What "all" stands for: the eight data sets of the published table.
ALL = tuple(name for name, benchmark in BENCHMARKS.items() if benchmark.on_disk)

Threshold = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]


def split_names(given: Any) -> tuple[str, ...]:
    """ "voc21,ade20k" or ["voc21,ade20k", "world"] to separate names, each once."""
    several = [given] if isinstance(given, str) else given or ()
    return tuple(dict.fromkeys(name.strip() for one in several for name in str(one).split(",") if name.strip()))


def _expand_all(given: Any) -> tuple[str, ...]:
    """Names of benchmarks with "all" replaced by the eight data sets."""
    return tuple(dict.fromkeys(one for name in split_names(given) for one in (ALL if name == "all" else (name,))))


class SystemOptions(BaseModel):
    """What evaluation and comparison share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field("auto", description="a name of 'talk2dino models', a folder, or a hub id")
    projection: Path | None = Field(None, description="projection of the model, or a folder of 'talk2dino train'")
    text: Path | None = Field(None, description="text tower of 'talk2dino train-text', for other languages")
    translate: str | None = Field(None, description="auto, or a Marian model: translates prompts into English")
    mode: Literal["slide", "whole", "square"] | None = Field(None, description="None: as published")
    background: Threshold | None = Field(None, description="background threshold; None: the method's default")
    clean: bool | None = Field(None, description="background cleaning; None: as published")
    refine: bool = Field(False, description="refine the masks with PAMR")
    data: Path | None = Field(None, description="mmsegmentation's data folder, or the folder of the data set")
    synonyms: Path | None = Field(None, description="file with lines 'class = synonym | synonym'")
    held_out: Literal["one", "all"] | None = Field(None, description="world: objects in colours training never showed")
    limit: int | None = Field(None, ge=1, description="only the first images")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("float32", description="float32: as published")
    out: Path | None = None

    @model_validator(mode="after")
    def _check_device(self) -> Self:
        check_device_name(self.device)
        check_language_options(self.text, self.translate)
        return self


class EvaluationOptions(SystemOptions):
    """One method on one or several benchmarks, with every part of the protocol that can be changed."""

    benchmark: Annotated[tuple[str, ...], BeforeValidator(_expand_all)]
    method: str = Field(default_factory=lambda: method_names()[0])
    method_options: dict[str, Any] = Field(default_factory=dict, description="such as prototypes, variant, segments")
    matching: Literal["benchmark", "image"] = Field("benchmark", description="of segments without a class")
    prompts: str = Field("names", description=f"world: {', '.join(PROMPT_VARIANTS)}")
    shard: tuple[int, int] = Field((1, 1), description="(i, n): every n-th image from the i-th on")
    batch_size: int = Field(8, ge=1, le=256, description="images that are segmented together")

    @model_validator(mode="after")
    def _check(self) -> EvaluationOptions:
        if not self.benchmark:
            raise InputError("name a benchmark, for example --benchmark world")
        benchmarks = self.benchmarks
        check_options(self.method, self.method_options)
        facts = method_facts(self.method)
        world_prompts(self.prompts)
        if any(benchmark.on_disk for benchmark in benchmarks) and (self.held_out or self.prompts != "names"):
            raise InputError("held-out colours and prompt variants exist only for the world benchmark; use --synonyms")
        if len(benchmarks) == 1 and self.background is not None and not benchmarks[0].background:
            raise InputError(f"{benchmarks[0].name} has no background class: remove the background threshold")
        if facts.matched and self.background is not None:
            raise InputError(f"{self.method} has no background threshold: the background is one of its segments")
        if self.clean and not facts.can_clean:
            raise InputError(f"{self.method} has no background cleaning: remove --clean")
        if self.mode is not None and self.mode not in facts.modes:
            raise InputError(f"{self.method} has no mode {self.mode}; accepted: {', '.join(facts.modes)}")
        if not 1 <= self.shard[0] <= self.shard[1]:
            raise InputError(f"a shard is (i, n) with 1 <= i <= n; got {self.shard}")
        return self

    @property
    def benchmarks(self) -> tuple[Benchmark, ...]:
        return tuple(map(get_benchmark, self.benchmark))

    def mode_on(self, benchmark: Benchmark) -> str:
        """The mode asked for, else the one in which the method runs benchmarks, else the benchmark's."""
        return self.mode or method_facts(self.method).evaluation_mode or benchmark.mode

    def clean_on(self, benchmark: Benchmark) -> bool:
        """Whether background cleaning is on: as asked for, else as published."""
        return benchmark.clean and method_facts(self.method).can_clean if self.clean is None else self.clean

    def settings_on(self, benchmark: Benchmark) -> dict[str, Any]:
        """What decides the figures on one benchmark, as plain values; the model is still as it was named."""
        values = self.model_dump(mode="json", exclude={"data", "device", "out", "shard", "batch_size", "matching"})
        return values | {
            "benchmark": benchmark.name,
            "mode": self.mode_on(benchmark),
            "clean": self.clean_on(benchmark),
            "background": self.background if benchmark.background else None,
            "matched": self.matching if method_facts(self.method).matched else None,
        }


class CompareOptions(SystemOptions):
    """Several systems side by side, on images or on a benchmark.

    A system is the name of a method, or a method with options, as in ``clip-dense:variant=residual``.
    """

    images: tuple[Path, ...] = ()
    prompts: str | None = Field(None, description="class names for the images, separated by commas")
    benchmark: str | None = None
    systems: Annotated[tuple[str, ...], BeforeValidator(split_names)] = Field(default_factory=method_names)
    method_options: dict[str, dict[str, Any]] = Field(default_factory=dict, description="and 'background' of each")
    prototypes: Path | None = Field(None, description="for the methods that have an option of this name")
    plain: bool = Field(False, description="benchmark: without cleaning and refinement")
    prototype_scenes: int = Field(2000, ge=1, description="scenes from which missing prototypes are built")
    out: Path = Path("compare")

    @model_validator(mode="after")
    def _check(self) -> CompareOptions:
        if bool(self.images) == (self.benchmark is not None):
            raise InputError("pass IMAGE with --prompts, or --benchmark NAME, but not both")
        if self.images and self.prompts is None:
            raise InputError("an image needs --prompts, for example --prompts 'sky, grass'")
        if self.images and self.synonyms is not None:
            raise InputError("synonyms of an image belong into --prompts, as in 'car=red car|automobile'")
        if len({path.stem for path in self.images}) < len(self.images):
            raise InputError("two images have the same name: their results would overwrite each other")
        if not self.systems:
            raise InputError(f"name at least one system: {', '.join(method_names())}")
        for method, options in self.method_options.items():
            parse_system(":".join([method, *(f"{name}=" for name in options)]))
        for method, own in map(self.system, self.systems):
            if self.benchmark is not None:
                row_options(self, method, own)
        return self

    def system(self, label: str) -> tuple[str, dict[str, Any]]:
        """The method of one of the systems and its options, "background" and "matching" among them."""
        method, own = parse_system(label)
        stored = self.prototypes is not None and "prototypes" in option_names(method)
        given = {"prototypes": str(self.prototypes)} if stored else {}
        return method, {**given, **self.method_options.get(method, {}), **own}


def parse_system(label: str) -> tuple[str, dict[str, Any]]:
    """``"freeda:local_weight=1:nearest=5"`` to its method and options, which it must have; values are read as YAML."""
    method, *given = label.split(":")
    options = parse_values(given)
    special = {"background", "matching"} if check_method(method) and method_facts(method).matched else {"background"}
    check_options(method, options.keys() - special)
    return method, options


def row_options(
    options: CompareOptions, method: str, own: Mapping[str, Any], *, clean: bool = False, refine: bool = False
) -> EvaluationOptions:
    """The evaluation of one row of a comparison; ``own`` may also hold "background" and "matching"."""
    special = {name: own[name] for name in ("background", "matching") if own.get(name) is not None}
    shared = {
        "benchmark", "model", "projection", "text", "translate", "data", "synonyms", "held_out", "limit", "device", "dtype",
    }  # fmt: skip
    return build_options(EvaluationOptions, options.model_dump(include=shared) | special | {
        "method": method, "clean": clean, "refine": refine,
        "method_options": {name: value for name, value in own.items() if name not in ("background", "matching")},
        "mode": options.mode if options.mode in method_facts(method).modes else None,
    })  # fmt: skip
