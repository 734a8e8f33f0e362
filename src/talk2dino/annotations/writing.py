"""What every writer is given besides the images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from talk2dino.annotations.outlines import OutlineOptions


class WriteOptions(BaseModel):
    """How objects are written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    polygons: bool = Field(default=False, description="polygons instead of masks, where a format has both")
    outline: OutlineOptions = OutlineOptions()
    image_prefix: str = Field(default="", description="Label Studio: what stands before the name of an image")


@dataclass(frozen=True)
class DataSet:
    """What is written once per data set.

    Attributes:
        classes: names, without a background. model: what made the objects. images: folder of the images, if it is known.
        instances: objects are things that can be counted, rather than one area per class.
    """

    classes: tuple[str, ...]
    model: str = ""
    images: Path | None = None
    instances: bool = False
