"""What a model folder records beside its weights: config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from talk2dino.errors import CheckpointError, DataError, InputError, suggestion
from talk2dino.io.settings import read_json
from talk2dino.models.templates import PUBLISHED_TEMPLATES, check_templates
from talk2dino.words.scripts import check_languages

CONFIG = "config.json"
FORMAT = "talk2dino"
FORMAT_VERSION = 1
Heads = Annotated[int, Field(ge=1, strict=True)] | None


@dataclass(frozen=True)
class SegmenterConfig:
    """Everything about a model that its weights do not show.

    Attributes:
        name: the model's name in results.
        size: short side in pixels at which the model sees images; the window in slide mode.
        threshold: default background threshold, on the scale of ``variant``; None: every call must give one.
        variant: background cleaning, "published" (scores after a sigmoid) or "paper" (cosines).
        templates: prompt templates.
        heads, text_heads, clip_vision_heads: attention heads; None means width / 64.
        text_activation: CLIP's activation: "quick_gelu" (OpenAI) or "gelu".
        rotary_attention: DINOv3 only: take attention logits after the rotary embedding instead of before.
        languages: codes of the languages that the text model reads.
        tokenizer: "clip" (bundled) or the name of a tokenizer.json in the folder.
        source: where the weights came from: repository and revision, or a path.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    size: Annotated[int, Field(ge=1, strict=True)] = 448
    threshold: Annotated[float, Field(ge=-1, le=1)] | None = 0.55
    variant: Literal["published", "paper"] = "published"
    templates: tuple[str, ...] = PUBLISHED_TEMPLATES
    heads: Heads = None
    text_heads: Heads = None
    clip_vision_heads: Heads = None
    text_activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    rotary_attention: bool = False
    languages: tuple[str, ...] = ("en",)
    tokenizer: str = "clip"
    source: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        if self.languages == ("en",):
            del values["languages"]  # version 0.1.0 does not know this key
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], origin: str) -> SegmenterConfig:
        """Read what :meth:`to_dict` wrote.

        Raises:
            CheckpointError: another format, a newer version, unknown or missing keys, values out of range.
        """
        values = dict(values)
        if values.pop("format", None) != FORMAT:
            raise CheckpointError(f"{origin} is not a talk2dino configuration (its 'format' is not {FORMAT!r})")
        version = values.pop("format_version", None)
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise CheckpointError(f"{origin} has format version {version}; this release reads up to {FORMAT_VERSION}")
        for old in ("mapping", "vision_mapping", "projection", "vision_projection"):  # written by 0.1.0, not read
            values.pop(old, None)
        try:
            config = TypeAdapter(cls).validate_python(values)
            check_templates(config.templates)
            check_languages(config.languages)
        except ValidationError as error:
            raise CheckpointError(f"{origin}: {_sentence(error)}") from None
        except InputError as error:
            raise CheckpointError(f"{origin}: {error}") from None
        if Path(config.tokenizer).name != config.tokenizer:
            raise CheckpointError(
                f"{origin}: tokenizer must be a file name in the same folder; got {config.tokenizer!r}"
            )
        return config


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "unexpected_keyword_argument":
        return f"unknown key {name!r}{suggestion(name, SegmenterConfig.__dataclass_fields__)}"
    return f"{name}: {first['msg']}" + ("" if first["type"] == "missing" else f" (got {first['input']!r})")


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in a config.json.

    Raises:
        CheckpointError: the file cannot be read or holds something else.
    """
    try:
        return read_json(path, "model configuration")
    except DataError as error:
        raise CheckpointError(str(error)) from None
