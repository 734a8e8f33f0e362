"""What clients may ask for, as typed values; the documentation of the API is made from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from talk2dino.errors import InputError
from talk2dino.server.problems import Problem
from talk2dino.words.prompts import PromptList, read_prompts

Format = Literal["json", "png", "overlay", "npz", "coco", "cvat", "cvat-masks", "label-studio"]
Words = str | list[str] | dict[str, str | list[str] | None]
Number = Annotated[float, Field(allow_inf_nan=False)]

_STRICT = ConfigDict(extra="forbid", frozen=True)
_PROMPTS = (
    'Classes to look for, as on the command line ("sky, grass, car=red car|automobile"), as a list of names, or as an '
    "object that maps each class to its synonyms."
)


class Rle(BaseModel):
    """A mask in COCO's run-length code."""

    model_config = _STRICT
    size: tuple[int, int] = Field(description="[height, width] of the image")
    counts: str | list[int] = Field(description="compressed (text) or plain (list of run lengths)")


class Region(BaseModel):
    """What an example shows: a box, a point or a mask in pixels of the original image; exactly one of them."""

    model_config = _STRICT
    box: tuple[Number, Number, Number, Number] | None = Field(None, description="[x0, y0, x1, y1]")
    point: tuple[Number, Number] | None = Field(None, description="[x, y]")
    rle: Rle | None = None
    image: str | None = Field(None, description="id of another encoded image; by default the image that is segmented")

    @model_validator(mode="after")
    def _one(self) -> Region:
        if sum(value is not None for value in (self.box, self.point, self.rle)) != 1:
            raise InputError("an example has exactly one of box, point and rle")
        return self


class WordsAsk(BaseModel):
    """Words whose vectors are asked for."""

    model_config = _STRICT | ConfigDict(json_schema_extra={"examples": [{"prompts": "sky, grass, ball=red ball"}]})
    prompts: Words | None = Field(None, description=_PROMPTS)
    negative: Words | None = Field(None, description="Classes whose pixels become background.")

    def read(self, most: int) -> tuple[PromptList | None, PromptList | None]:
        """Checked prompts and negative prompts; None where there are none.

        Raises:
            PromptError: they cannot be read. Problem: there are more than ``most``.
        """
        prompts = read_prompts(self.prompts) if self.prompts else None
        negative = read_prompts(self.negative) if self.negative else None
        count = sum(
            len(synonyms) for one in (prompts, negative) if one is not None for synonyms in one.synonyms
        )  # fmt: skip
        if count > most:
            raise Problem(413, f"{count:,} prompts and synonyms were given", kind="too-many-prompts",
                          accepted=f"at most {most:,}")  # fmt: skip
        return prompts, negative


class Ask(WordsAsk):
    """How an image is segmented."""

    model_config = _STRICT | ConfigDict(
        json_schema_extra={"examples": [{"prompts": ["sky", "grass", "ball"], "background": True, "format": "json"}]}
    )
    background: bool | Number | None = Field(
        None, description="true, or a threshold: pixels at which no class reaches it become background."
    )
    threshold: dict[str, Number] = Field({}, description="Thresholds of single classes; they imply a background.")
    clean: bool | None = Field(None, description="Background cleaning. By default on if there is a background.")
    refine: bool = Field(False, description="Sharpen the masks with the image's colours (PAMR).")
    mode: Literal["whole", "slide", "square"] | None = Field(None, description="How the image is seen.")
    method: str | None = Field(None, description="One of GET /v1/methods.")
    examples: dict[str, list[Region]] = Field({}, description="Classes by example: regions that show them.")
    negative_examples: dict[str, list[Region]] = Field({}, description="Regions whose like becomes background.")
    format: Format = Field(
        "json",
        description="json, png (labels as palette indices), overlay (PNG), npz, or a labelling format of one file.",
    )

    @model_validator(mode="after")
    def _something(self) -> Ask:
        if not self.prompts and not self.examples:
            raise InputError('no prompts were given; name at least one class, for example "sky, grass"')
        return self


class SegmentForm(Ask):
    """The fields of ``POST /v1/segment``: the image, and the options as text."""

    image: bytes = Field(description="an image file", json_schema_extra={"format": "binary"})


#: Fields of a form that hold JSON, always or where the text looks like it.
_JSON_FIELDS = ("threshold", "examples", "negative_examples")


def ask_from_form(fields: Mapping[str, str]) -> Ask:
    """The options of a multipart form.

    Raises:
        Problem: a field that is unknown or cannot be read (422).
    """
    values: dict[str, Any] = {}
    for name, text in fields.items():
        values[name] = _value(name, text)
    try:
        return Ask(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        from fastapi.exceptions import RequestValidationError

        raise RequestValidationError(error.errors()) from None


def _value(name: str, text: str) -> Any:
    stripped = text.strip()
    if name in _JSON_FIELDS or (name in ("prompts", "negative") and stripped[:1] in ("[", "{")):
        try:
            return json.loads(stripped) if stripped else None
        except (ValueError, RecursionError):
            raise Problem(422, f"{name}: not valid JSON: {text[:60]!r}", kind="refused-input") from None
    if name in ("background", "clean", "refine"):
        known = {"": None, "true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
        if stripped.lower() in known:
            return known[stripped.lower()]
        if name == "background":
            try:
                return float(stripped)
            except ValueError:
                pass
        raise Problem(422, f"{name}: {text[:60]!r} cannot be read", kind="refused-input",
                      accepted="true, false or a number" if name == "background" else "true or false")  # fmt: skip
    return stripped or None
