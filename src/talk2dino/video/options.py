"""Which frames of a video are segmented, and how."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from talk2dino.errors import InputError
from talk2dino.io.frames import read_seconds

Seconds = Annotated[float, BeforeValidator(lambda value: value if value is None else read_seconds(value))]


class VideoOptions(BaseModel):
    """Options of videos, beside those that images have as well. Times may be text such as "0.5s" or "1:30"."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: Seconds | None = Field(default=None, description="segment one frame per such period; None: every frame")
    start: Seconds = 0.0
    end: Seconds | None = None
    steady: bool = Field(default=True, description="carry scores along with the motion, so that masks do not flicker")
    keyframe_every: int = Field(default=1, ge=1, le=1000, description="encode every so many frames")
    as_video: bool = Field(default=False, description="folders and animated images are videos, too")
    fps: float = Field(default=25.0, gt=0, le=1000, description="frames per second of a folder")

    @model_validator(mode="after")
    def _check(self) -> VideoOptions:
        if self.every is not None and self.every <= 0:
            raise InputError(f"every must be more than 0 s; got {self.every:g} s")
        if self.end is not None and self.end <= self.start:
            raise InputError(f"end must be later than start; got start {self.start:g} s and end {self.end:g} s")
        return self
