"""What a training run can be told: one model with the published recipe as its defaults."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from talk2dino.errors import InputError
from talk2dino.stages.heads import STRATEGIES


class FitConfig(BaseModel):
    """Defaults: the published recipe (Adam, lr 1e-4 constant, batch 128, 100 epochs, temperature 0.07, seed 123)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    strategy: Annotated[str, Field(description=f"head strategy: {', '.join(STRATEGIES)}")] = "max"
    head_temperature: Annotated[float, Field(gt=0, description="softens the weights of 'softmax' and 'sampled'")] = 1.0
    side: Annotated[Literal["text", "vision", "both"], Field(description="which side is mapped")] = "text"
    depth: Annotated[int, Field(ge=1, le=8, description="layers of the projection; 1 is linear")] = 2
    width: Annotated[int | None, Field(ge=1, description="width of hidden layers; as the output by default")] = None
    activation: Annotated[str, Field(description="between layers: tanh, relu, gelu, sigmoid")] = "tanh"
    shared_dim: Annotated[int | None, Field(ge=1, description="with side 'both'; the vision width by default")] = None
    temperature: Annotated[float, Field(gt=0, description="of the contrastive loss")] = 0.07
    learned_temperature: Annotated[bool, Field(description="learn it, from there on")] = False
    published_scale: Annotated[bool, Field(description="divide the loss by B^2, as the published code does")] = False
    mask_same_image: Annotated[bool, Field(description="other captions of a picture are no negatives of it")] = False
    optimizer: Annotated[Literal["adam", "adamw"], Field(description="optimizer")] = "adam"
    lr: Annotated[float, Field(gt=0, description="learning rate")] = 1e-4
    weight_decay: Annotated[float, Field(ge=0, description="of AdamW (and L2 of Adam)")] = 0.0
    schedule: Annotated[Literal["constant", "cosine"], Field(description="of the learning rate")] = "constant"
    warmup_steps: Annotated[int, Field(ge=0, description="steps of linear warm-up")] = 0
    batch_size: Annotated[int, Field(ge=2, description="captions a step, over all processes together")] = 128
    epochs: Annotated[int, Field(ge=1, description="passes over the captions")] = 100
    max_steps: Annotated[int | None, Field(ge=1, description="stop after so many steps instead")] = None
    seed: Annotated[int, Field(ge=0, description="of the initial weights, the order and the sampling")] = 123
    validation_share: Annotated[float, Field(ge=0, lt=1, description="pictures kept out of training to validate")] = 0.0
    validation_limit: Annotated[int, Field(ge=2, description="at most so many pictures in validation")] = 5000
    validate_every: Annotated[int | None, Field(ge=1, description="steps; an epoch by default")] = None
    save_every: Annotated[int | None, Field(ge=1, description="steps between checkpoints; an epoch by default")] = None
    log_every: Annotated[int, Field(ge=1, description="steps between lines of metrics.jsonl")] = 50

    @model_validator(mode="after")
    def _names(self) -> FitConfig:
        from talk2dino.models.projection import ACTIVATIONS

        if self.strategy not in STRATEGIES:
            raise ValueError(f"unknown head strategy '{self.strategy}'; one of: {', '.join(STRATEGIES)}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation '{self.activation}'; one of: {', '.join(ACTIVATIONS)}")
        if self.shared_dim is not None and self.side != "both":
            raise ValueError(
                f"shared_dim is the width where both sides meet: it goes with side 'both', not '{self.side}'"
            )
        return self

    @classmethod
    def build(cls, **values: Any) -> FitConfig:
        """As the constructor, with one sentence instead of pydantic's report when a value is refused."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise InputError("; ".join(map(_sentence, error.errors()))) from error


def _sentence(item: Any) -> str:
    """One of pydantic's complaints: which setting, what is accepted, what came."""
    said = item["msg"].removeprefix("Value error, ")
    if not item["loc"]:
        return said
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(item["loc"][0]), FitConfig.model_fields, n=2)
        return f"no setting named '{item['loc'][0]}'" + (f"; did you mean {' or '.join(near)}?" if near else "")
    return f"{'.'.join(map(str, item['loc']))}: {said} (got {item['input']!r})"
