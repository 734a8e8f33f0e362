"""The settings of the distillation of a text tower."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from talk2dino.errors import InputError
from talk2dino.words.scripts import check_languages

NEW = "new"


class TextTrainOptions(BaseModel):
    """How to distil a text tower."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    languages: Annotated[tuple[str, ...], Field(description="codes of the languages of the texts, such as es")]
    encoder: Annotated[str, Field(description="'new', or a pretrained encoder: a folder or a hub id")] = NEW
    english: Annotated[bool, Field(description="learn the English texts as well")] = True
    templates: Annotated[tuple[str, ...], Field(description="prompt templates of the tower, each with {}")] = ("{}",)
    context: Annotated[int, Field(ge=4, le=512, description="tokens per text")] = 48
    vocabulary: Annotated[int, Field(ge=16, description="tokens of a new encoder, at most")] = 8000
    width: Annotated[int, Field(ge=8, description="of a new encoder")] = 192
    depth: Annotated[int, Field(ge=1, le=48, description="layers of a new encoder")] = 3
    heads: Annotated[int, Field(ge=1, description="attention heads of a new encoder")] = 3
    mse: Annotated[float, Field(ge=0, description="weight of the squared error")] = 1.0
    cosine: Annotated[float, Field(ge=0, description="weight of 1 - cosine")] = 1.0
    lr: Annotated[float, Field(gt=0, description="learning rate")] = 5e-4
    weight_decay: Annotated[float, Field(ge=0, description="weight decay of AdamW")] = 0.01
    schedule: Annotated[Literal["constant", "cosine"], Field(description="of the learning rate")] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0, description="steps of linear warm-up")] = 50
    batch_size: Annotated[int, Field(ge=1, description="texts per step")] = 128
    epochs: Annotated[int, Field(ge=1, description="passes over the texts")] = 10
    max_steps: Annotated[int | None, Field(ge=1, description="steps; replaces the epochs")] = None
    seed: Annotated[int, Field(ge=0, description="of new weights, batches and dropout")] = 123
    validation_share: Annotated[float, Field(ge=0, lt=1, description="share of the pairs held out to validate")] = 0.02
    save_every: Annotated[int | None, Field(ge=1, description="steps between checkpoints; an epoch by default")] = None
    log_every: Annotated[int, Field(ge=1, description="steps per record of metrics.jsonl")] = 50

    @field_validator("languages")
    @classmethod
    def _known(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        return check_languages(codes)

    @model_validator(mode="after")
    def _consistent(self) -> TextTrainOptions:
        if not self.mse and not self.cosine:
            raise InputError("mse and cosine cannot both be 0: there would be nothing to learn from")
        if self.encoder == NEW and self.width % self.heads:
            raise InputError(f"width {self.width} is not a multiple of {self.heads} heads")
        return self

    @property
    def read_languages(self) -> tuple[str, ...]:
        """The languages that the tower reads in the end."""
        return check_languages(("en", *self.languages) if self.english else self.languages)
