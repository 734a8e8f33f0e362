"""The settings of a training run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from talk2dino.errors import InputError
from talk2dino.io.settings import build_options
from talk2dino.models.projection import ACTIVATIONS
from talk2dino.stages.heads import STRATEGIES


class TrainOptions(BaseModel):
    """How to train a projection.

    The defaults follow the paper: they differ from the published code in two settings, ``published_scale`` and
    ``keep_partial_batch``. :meth:`published` is the published training in full.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    strategy: Annotated[str, Field(description=f"head strategy: {', '.join(STRATEGIES)}")] = "max"
    head_temperature: Annotated[float, Field(gt=0, description="of the weights of 'softmax' and 'sampled'")] = 1.0
    side: Annotated[Literal["text", "vision", "both"], Field(description="side that is projected")] = "text"
    depth: Annotated[int, Field(ge=1, le=8, description="layers of the projection; 1 is linear")] = 2
    width: Annotated[int | None, Field(ge=1, description="width of hidden layers; the output's by default")] = None
    activation: Annotated[str, Field(description=f"between layers: {', '.join(ACTIVATIONS)}")] = "tanh"
    shared_dim: Annotated[int | None, Field(ge=1, description="with side 'both'; the vision width by default")] = None
    temperature: Annotated[float, Field(gt=0, description="of the contrastive loss")] = 0.07
    learned_temperature: Annotated[bool, Field(description="train the temperature, starting from its value")] = False
    published_scale: Annotated[bool, Field(description="divide the loss by B^2, as the published code does")] = False
    mask_same_image: Annotated[bool, Field(description="do not use other captions of an image as negatives")] = False
    optimizer: Annotated[Literal["adam", "adamw"], Field(description="optimizer")] = "adam"
    lr: Annotated[float, Field(gt=0, description="learning rate")] = 1e-4
    weight_decay: Annotated[float, Field(ge=0, description="weight decay of AdamW, L2 penalty of Adam")] = 0.0
    schedule: Annotated[Literal["constant", "cosine"], Field(description="of the learning rate")] = "constant"
    warmup_steps: Annotated[int, Field(ge=0, description="steps of linear warm-up")] = 0
    batch_size: Annotated[int, Field(ge=2, description="captions per step, over all processes")] = 128
    keep_partial_batch: Annotated[bool, Field(description="train on the last, smaller batch of an epoch too")] = False
    epochs: Annotated[int, Field(ge=1, description="passes over the captions")] = 100
    max_steps: Annotated[int | None, Field(ge=1, description="steps; replaces the epochs")] = None
    seed: Annotated[int, Field(ge=0, description="of the initial weights, the batches and the sampling")] = 123
    validation_share: Annotated[float, Field(ge=0, lt=1, description="share of the images held out to validate")] = 0.0
    validation_limit: Annotated[int, Field(ge=2, description="images to validate on, at most")] = 5000
    validate_every: Annotated[int | None, Field(ge=1, description="steps between validations; an epoch by default")] = (
        None
    )
    save_every: Annotated[int | None, Field(ge=1, description="steps between checkpoints; an epoch by default")] = None
    log_every: Annotated[int, Field(ge=1, description="steps per record of metrics.jsonl")] = 50

    @field_validator("strategy", "activation")
    @classmethod
    def _known(cls, name: str, info: Any) -> str:
        known = STRATEGIES if info.field_name == "strategy" else ACTIVATIONS
        if name not in known:
            raise ValueError(f"expected one of {', '.join(known)}")
        return name

    @model_validator(mode="after")
    def _shared_dim_of_both(self) -> TrainOptions:
        if self.shared_dim is not None and self.side != "both":
            raise ValueError(f"shared_dim is the width where both sides meet and needs side 'both'; got '{self.side}'")
        return self

    @classmethod
    def published(cls, **others: Any) -> TrainOptions:
        """The published training: head strategy "max", a two-layer tanh projection of the text side, InfoNCE at temperature
        0.07 divided by B^2, Adam with a constant learning rate of 1e-4, batches of 128 with the last partial one, 100 epochs,
        seed 123. As in every run, the weights after the last step are the result.

        Raises:
            InputError: one of the ``others`` is invalid, or contradicts the published training (:data:`REPORTING` cannot).
        """
        options = build_options(cls, {**BESIDE_THE_PAPER, **others})
        if wanted := options.against_published():
            given = ", ".join(f"{name}={getattr(options, name)!r}" for name in wanted)
            expected = ", ".join(f"{name}={value!r}" for name, value in wanted.items())
            raise InputError(f"{given} contradicts the published training, which has {expected}: leave it out")
        return options

    def against_published(self) -> dict[str, Any]:
        """The settings that the published training has otherwise, with its values; :data:`REPORTING` is left out."""
        published = type(self)(**BESIDE_THE_PAPER).model_dump(exclude=set(REPORTING))
        return {name: value for name, value in published.items() if getattr(self, name) != value}


#: What the published code does beside what the paper describes.
BESIDE_THE_PAPER: dict[str, Any] = {"published_scale": True, "keep_partial_batch": True}
#: Settings that change what is reported and saved, not what is trained.
REPORTING = frozenset({"validation_limit", "validate_every", "save_every", "log_every"})
