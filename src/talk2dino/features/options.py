"""The settings of an extraction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from talk2dino.device import check_device_name, check_dtype_name
from talk2dino.stages.heads import STRATEGIES

#: The image features that can be stored, see :func:`talk2dino.stages.pooling.pooled_features`.
FEATURES = tuple(dict.fromkeys(STRATEGIES.values()))


class ExtractOptions(BaseModel):
    """What to extract, how, and where to. The defaults are the published preprocessing, with head embeddings alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: Annotated[Path, Field(description="folder of the store")]
    sources: Annotated[tuple[Path, ...], Field(description="caption files and folders; several count as one")] = ()
    images: Annotated[Path | None, Field(description="folder of the images of a .json; beside it by default")] = None
    split: Annotated[str, Field(description="split of a data set: train, val or test")] = "train"
    limit: Annotated[int | None, Field(ge=1, description="read only the first records; all by default")] = None
    model: Annotated[str, Field(description="the encoders: a name in the catalog, a folder or a hub id")] = "auto"
    features: Annotated[tuple[str, ...], Field(description=f"any of {', '.join(FEATURES)}")] = ("heads",)
    size: Annotated[int | None, Field(ge=1, description="side of the input in pixels; the model's by default")] = None
    crop: Annotated[
        Literal["center", "squash"],
        Field(description="center: resize the short side, crop the centre (published); squash: resize both sides"),
    ] = "center"
    batch_size: Annotated[int, Field(ge=1, description="images per forward pass")] = 16
    records_per_shard: Annotated[int, Field(ge=1, description="records per shard; memory grows with it")] = 2048
    shard: Annotated[tuple[int, int], Field(description="(i, n): make part i of n, counted from 1")] = (1, 1)
    max_skipped: Annotated[float, Field(ge=0, le=1, description="share of unusable records that stops the run")] = 0.05
    workers: Annotated[int, Field(ge=1, description="threads that decode images")] = 2
    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:N or mps")] = "auto"
    dtype: Annotated[str, Field(description="of the vision model: auto, float32, bfloat16 or float16")] = "auto"

    @field_validator("features")
    @classmethod
    def _known_features(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names or set(names) - set(FEATURES):
            raise ValueError(f"expected one or more of {', '.join(FEATURES)}")
        return tuple(sorted(set(names)))

    @field_validator("shard")
    @classmethod
    def _known_shard(cls, shard: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= shard[0] <= shard[1]:
            raise ValueError("expected (i, n) with 1 <= i <= n")
        return shard

    @field_validator("device", "dtype")
    @classmethod
    def _known_name(cls, name: str, field: ValidationInfo) -> str:
        (check_device_name if field.field_name == "device" else check_dtype_name)(name)
        return name

    @property
    def folder(self) -> Path:
        """Where the store goes: ``out``, or a folder per part below it."""
        number, count = self.shard
        if count == 1:
            return self.out
        earlier = self.out / f"part-{number - 1:03d}-of-{count:03d}"  # as version 0.1.0 named it
        return earlier if earlier.exists() else self.out / f"part-{number}-of-{count}"
