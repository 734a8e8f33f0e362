"""The parts of a model, and whether they fit together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from talk2dino.errors import CheckpointError
from talk2dino.models.config import CONFIG, SegmenterConfig, read_config
from talk2dino.models.fingerprint import same_weights
from talk2dino.models.projection import VISION_FILES, Projection, load_projection, projection_file
from talk2dino.models.text import TextEncoder
from talk2dino.models.vision import VisionModel
from talk2dino.models.vit import VisionTransformer


@dataclass
class Parts:
    """What a Segmenter is made of.

    Attributes:
        late_clip_vision: loads CLIP's image tower on first use, where ``clip_vision`` is None.
        aligned: whether words can be compared with patches; False for a backbone without a projection.
    """

    vision: VisionModel
    text: TextEncoder
    projection: Projection | None
    config: SegmenterConfig
    clip_vision: VisionTransformer | None = None
    vision_projection: Projection | None = None
    late_clip_vision: Callable[[], VisionTransformer] | None = None
    aligned: bool = True


def attach_projection(parts: Parts, path: Path) -> None:
    """Replace psi by the one in a file or folder. A folder may have one for text, for vision, or both.

    Raises:
        CheckpointError: damaged, of sizes that do not fit, or in a folder that records other weights (see ``train``).
    """
    vision_file = projection_file(path, VISION_FILES) if path.is_dir() else None
    parts.vision_projection = None if vision_file is None else load_projection(vision_file)
    only_vision = vision_file is not None and projection_file(path) is None
    parts.projection = None if only_vision else load_projection(path)
    parts.aligned = True
    parts.config = replace(parts.config, source={**parts.config.source, "projection": path.name})
    check_sizes(parts, str(path))
    _check_trained_for(parts, path)


def _check_trained_for(parts: Parts, folder: Path) -> None:
    """Refuse a projection whose folder records that it was trained with other weights.

    Raises:
        CheckpointError: names the model that the projection was trained with.
    """
    config = read_config(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    model = config.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("weights"), dict):
        return  # a projection alone, or features that do not record their weights
    for tower, network in (("vision", parts.vision), ("text", parts.text.model)):
        recorded = model["weights"].get(tower)
        if isinstance(recorded, dict) and not same_weights(network, recorded):
            name = model.get("name", "another model")
            raise CheckpointError(
                f"the projection in {folder} was trained on features of {name}, whose {tower} weights are not those of "
                f"{parts.config.name}. Use the model it was trained with (--model), or give the projection's file instead "
                "of its folder to skip this check"
            )


def check_sizes(parts: Parts, origin: str) -> None:
    """Check that text and vision meet in one space.

    Raises:
        CheckpointError: names the sizes that do not fit.
    """
    name, text, vision = parts.config.name, parts.text.dim, parts.vision.dim
    for side, projection, width in (("text", parts.projection, text), ("vision", parts.vision_projection, vision)):
        if projection is not None and projection.in_dim != width:
            raise CheckpointError(
                f"the {side} projection in {origin} reads {projection.in_dim} dimensions, but the {side} model of {name} "
                f"has {width}"
            )
    text = text if parts.projection is None else parts.projection.out_dim
    vision = vision if parts.vision_projection is None else parts.vision_projection.out_dim
    if (parts.projection or parts.vision_projection) and text != vision:
        raise CheckpointError(
            f"the projection in {origin} does not fit {name}: it compares texts of {text} dimensions with patches of {vision}"
        )
    clip = None if parts.clip_vision is None else parts.clip_vision.config.output
    if clip is not None and clip != parts.text.dim:
        raise CheckpointError(f"{origin}: CLIP's image tower has {clip} dimensions, its text tower {parts.text.dim}")
