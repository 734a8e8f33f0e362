"""What a model folder says of itself beside its weights: config.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from talk2dino.errors import CheckpointError
from talk2dino.models.text import PUBLISHED_TEMPLATES, check_templates

FORMAT = "talk2dino"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class SegmenterConfig:
    """Everything that weights alone do not tell.

    Attributes:
        name: how results name the model.
        size: short side in pixels at which pictures are seen; the window in slide mode.
        threshold: default background threshold, on the scale of ``variant``; None: a caller must name one.
        variant: background cleaning, "published" (scores after a sigmoid) or "paper" (cosines).
        templates: prompt templates.
        heads, text_heads, clip_vision_heads: attention heads; None means width / 64.
        text_activation: CLIP's activation: "quick_gelu" (OpenAI) or "gelu".
        rotary_attention: for DINOv3, logits after the rotary embedding instead of before.
        tokenizer: "clip" (bundled) or the name of a tokenizer.json in the folder.
        source: where the weights came from: repository and revision, or a path.
    """

    name: str
    size: int = 448
    threshold: float | None = 0.55
    variant: str = "published"
    templates: tuple[str, ...] = PUBLISHED_TEMPLATES
    heads: int | None = None
    text_heads: int | None = None
    clip_vision_heads: int | None = None
    text_activation: str = "quick_gelu"
    rotary_attention: bool = False
    tokenizer: str = "clip"
    source: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any], origin: str) -> SegmenterConfig:
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
        values.pop("projection", None)
        values.pop("vision_projection", None)
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown or "name" not in values:
            problem = f"unknown keys: {', '.join(sorted(unknown))}" if unknown else "the key 'name' is missing"
            raise CheckpointError(f"{origin}: {problem}")
        values["templates"] = check_templates(values.get("templates", PUBLISHED_TEMPLATES))
        config = cls(**values)
        if config.variant not in ("published", "paper") or not isinstance(config.size, int) or config.size < 1:
            raise CheckpointError(f"{origin}: variant must be published or paper, and size a positive whole number")
        return config
