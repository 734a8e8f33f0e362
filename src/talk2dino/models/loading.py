"""From a name, a folder or a hub id to the parts of a Segmenter."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path

from talk2dino.errors import CheckpointError, ModelNotFoundError, Talk2DinoWarning
from talk2dino.models.catalog import CATALOG, ModelSpec, find_model
from talk2dino.models.checkpoint import (
    below,
    clip_text_from_published,
    clip_vision_from_published,
    read_json,
    read_tensors,
    vision_from_published,
)
from talk2dino.models.config import SegmenterConfig
from talk2dino.models.fingerprint import same_weights
from talk2dino.models.hub import hub_file
from talk2dino.models.projection import Projection, from_published, load_projection
from talk2dino.models.text import TextEncoder
from talk2dino.models.tokenizer import TextTokenizer
from talk2dino.models.vision import VisionModel
from talk2dino.models.vit import VisionTransformer

WEIGHTS, CONFIG = "model.safetensors", "config.json"


class MicroModelWarning(Talk2DinoWarning):
    """The embedded stand-in was taken because no real model is at hand."""


@dataclass
class Parts:
    """What a Segmenter is made of.

    Attributes:
        late_clip_vision: loads CLIP's image tower, where only who asks for it should wait for it.
    """

    vision: VisionModel
    text: TextEncoder
    projection: Projection | None
    config: SegmenterConfig
    clip_vision: VisionTransformer | None = None
    vision_projection: Projection | None = None
    late_clip_vision: Callable[[], VisionTransformer] | None = None


@dataclass(frozen=True)
class HubOptions:
    revision: str | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False

    def file(self, repository: str, filename: str) -> Path:
        return hub_file(
            repository,
            filename,
            revision=self.revision,
            cache_dir=self.cache_dir,
            local_files_only=self.local_files_only,
        )


def load_parts(name: str | Path, *, projection: str | Path | None = None, hub: HubOptions = HubOptions()) -> Parts:
    """Load a model by catalog name, ``auto``, local folder or hub id; ``projection`` replaces its psi.

    Raises:
        ModelNotFoundError: unknown name, folder or repository, or hub unreachable.
        CheckpointError: damaged or foreign weights, or a projection whose sizes do not fit or that another model's features
            trained.
    """
    if projection is not None and not Path(projection).exists():
        raise CheckpointError(f"no projection file or folder at {projection}")
    if str(name) == "auto":
        parts = _auto(hub)
    elif Path(name).is_dir():
        parts = _from_folder(Path(name), hub)
    elif str(name) in CATALOG:
        parts = _from_spec(CATALOG[str(name)], hub, has_projection=projection is not None)
    elif _looks_like_hub_id(str(name)):
        parts = _from_repository(str(name), hub, SegmenterConfig(name=str(name)))
    else:
        find_model(str(name))  # raises, with near names
        raise AssertionError("unreachable")
    if projection is not None:
        attach_projection(parts, Path(projection))
    return parts


def _looks_like_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and all(name.split("/"))


def _auto(hub: HubOptions) -> Parts:
    """vitb when it is cached or can be downloaded, else micro with one loud line."""
    try:
        return _from_spec(CATALOG["vitb"], hub, has_projection=False)
    except ModelNotFoundError:
        warnings.warn(
            "the published model vitb is neither cached nor downloadable, so the embedded stand-in 'micro' is used: it "
            "was trained on drawings of 16 things (sky, grass, ball, tree, house ...) and is of no use on photographs",
            MicroModelWarning,
            stacklevel=4,
        )
        return _from_spec(CATALOG["micro"], hub, has_projection=False)


def _from_spec(spec: ModelSpec, hub: HubOptions, *, has_projection: bool) -> Parts:
    if spec.kind == "embedded":
        return _from_folder(Path(str(resources.files("talk2dino") / spec.repository)), hub)
    config = SegmenterConfig(spec.name, spec.size, spec.threshold, spec.variant)
    hub = replace(hub, revision=hub.revision or spec.revision)
    if spec.kind == "published":
        return _from_repository(spec.repository, hub, config)
    if not has_projection:
        raise ModelNotFoundError(
            f"{spec.name} is a vision model alone: name the projection to use with it (--projection FILE, or projection=), or take "
            "a complete model such as vitb"
        )
    return _from_backbones(spec, hub, config)


def _from_repository(repository: str, hub: HubOptions, config: SegmenterConfig) -> Parts:
    weights = hub.file(repository, WEIGHTS)
    source = {"repository": repository, "revision": hub.revision or "main"}
    try:
        own = hub.file(repository, CONFIG)
        if read_json(own).get("format") == "talk2dino":
            config = SegmenterConfig.from_dict(read_json(own), str(own))
            if config.tokenizer != "clip":
                hub.file(repository, config.tokenizer)
    except ModelNotFoundError:
        pass  # published repositories need no configuration of ours
    return _from_weights(weights, replace(config, source=source))


def _from_folder(folder: Path, hub: HubOptions) -> Parts:
    """Our own folder, a published whole model in a folder, or what ``talk2dino train`` made."""
    config_file = folder / CONFIG
    values = read_json(config_file) if config_file.is_file() else {}
    if "base_model" in values:  # a projection with the name of the model that it was trained for
        parts = load_parts(values["base_model"], hub=hub)
        attach_projection(parts, folder)
        parts.config = replace(parts.config, name=folder.resolve().name, source={"folder": str(folder)})
        return parts
    candidates = [folder / WEIGHTS, *sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.pth"))]
    weights = next((path for path in candidates if path.is_file()), None)
    if weights is None:
        raise CheckpointError(
            f"the folder {folder} holds no model: expected {WEIGHTS} (with {CONFIG}, or in the published layout)"
        )
    if values.get("format") == "talk2dino":
        config = SegmenterConfig.from_dict(values, str(config_file))
    else:
        config = SegmenterConfig(name=folder.resolve().name)
    return _from_weights(weights, config if config.source else replace(config, source={"folder": folder.name}))


def _from_weights(weights: Path, config: SegmenterConfig) -> Parts:
    """The published whole-model layout; our own folders use it too."""
    tensors = read_tensors(weights)
    groups = {prefix: below(tensors, prefix) for prefix in ("model.", "clip_model.", "proj.", "vision_proj.")}
    known = set().union(*({prefix + name for name in group} for prefix, group in groups.items()))
    foreign = [n for n in tensors if n not in known and n != "logit_scale" and not n.startswith("pamr.")]
    if not groups["model."] or not groups["clip_model."] or foreign:
        raise CheckpointError(
            f"{weights} is not a whole Talk2DINO model: expected keys model.*, clip_model.* and proj.*; "
            f"{'unexpected: ' + ', '.join(sorted(foreign)[:5]) if foreign else 'it lacks some of them'}"
            + (" (a projection alone goes with --projection)" if "linear_layer.weight" in tensors else "")
        )
    try:
        vision = vision_from_published(groups["model."], heads=config.heads, rotary_attention=config.rotary_attention)
        context = (
            groups["clip_model."]["positional_embedding"].shape[0]
            if "positional_embedding" in groups["clip_model."]
            else 77
        )
        tokenizer = (
            TextTokenizer.clip(context)
            if config.tokenizer == "clip"
            else TextTokenizer.from_file(weights.parent / config.tokenizer, context)
        )
        clip_text = clip_text_from_published(
            groups["clip_model."], heads=config.text_heads, activation=config.text_activation
        )
        clip_vision = None
        if any(name.startswith("visual.conv1") for name in groups["clip_model."]):
            clip_vision = clip_vision_from_published(
                groups["clip_model."], heads=config.clip_vision_heads, activation=config.text_activation
            )
        projection = from_published(groups["proj."]) if groups["proj."] else None
        vision_projection = from_published(groups["vision_proj."]) if groups["vision_proj."] else None
    except CheckpointError as error:
        raise CheckpointError(f"{weights}: {error}") from None
    text = TextEncoder(clip_text, tokenizer, config.templates, disk_cache=True)
    parts = Parts(vision, text, projection, config, clip_vision, vision_projection)
    check_sizes(parts, str(weights))
    return parts


def _from_backbones(spec: ModelSpec, hub: HubOptions, config: SegmenterConfig) -> Parts:
    """A vision tower and CLIP in transformers' layout, to be combined with a projection."""
    from talk2dino.models.hub_towers import clip_image_from_hub, clip_text_from_hub, vision_from_hub

    text = str(spec.text)
    find_text = partial(replace(hub, revision=None).file, text)
    vision = VisionModel(
        vision_from_hub(spec.repository, partial(hub.file, spec.repository)), rotary_attention=config.rotary_attention
    )
    tower = clip_text_from_hub(text, find_text)
    encoder = TextEncoder(tower, TextTokenizer.clip(tower.config.context), config.templates, disk_cache=True)
    source = {"vision": spec.repository, "text": text, "revision": hub.revision or "main"}
    return Parts(
        vision, encoder, None, replace(config, source=source),
        late_clip_vision=lambda: clip_image_from_hub(text, find_text),
    )  # fmt: skip


def attach_projection(parts: Parts, path: Path) -> None:
    """Replace psi by the one in a file or folder; a folder may also hold vision_projection.safetensors.

    A folder that ``talk2dino train`` made says which weights its features came from: others are refused.
    """
    parts.projection, parts.vision_projection = None, None
    vision_file = path / "vision_projection.safetensors"
    if path.is_dir() and vision_file.is_file():
        parts.vision_projection = load_projection(vision_file)
    if not path.is_dir() or (path / "projection.safetensors").is_file() or parts.vision_projection is None:
        parts.projection = load_projection(path)
    parts.config = replace(parts.config, source={**parts.config.source, "projection": path.name})
    check_sizes(parts, str(path))
    _check_trained_for(parts, path)


def _check_trained_for(parts: Parts, folder: Path) -> None:
    """Refuse a projection that another model's features trained, where its folder says which weights those were.

    Raises:
        CheckpointError: with the model that it belongs to.
    """
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    model = config.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("weights"), dict):
        return  # a projection alone, or a run on features that do not say
    for tower, network in (("vision", parts.vision), ("text", parts.text.model)):
        recorded = model["weights"].get(tower)
        if isinstance(recorded, dict) and not same_weights(network, recorded):
            raise CheckpointError(
                f"the projection in {folder} was trained on features of {model.get('name', 'another model')}, whose {tower} "
                f"weights are not those of {parts.config.name}: take the model that it was trained for (--model "
                f"{model.get('name', 'NAME')}), or name the projection's file itself if it is to be used all the same"
            )


def check_sizes(parts: Parts, origin: str) -> None:
    """Text and vision must meet in one space.

    Raises:
        CheckpointError: with the sizes that do not fit.
    """
    text_out, vision_out = parts.text.dim, parts.vision.dim
    if parts.projection is not None:
        if parts.projection.text_dim != text_out:
            raise CheckpointError(
                f"the projection in {origin} reads {parts.projection.text_dim} text dimensions, but the text model of "
                f"{parts.config.name} gives {text_out}"
            )
        text_out = parts.projection.vision_dim
    if parts.vision_projection is not None:
        if parts.vision_projection.text_dim != vision_out:
            raise CheckpointError(
                f"the vision projection in {origin} reads {parts.vision_projection.text_dim} dimensions, but the vision model of "
                f"{parts.config.name} gives {vision_out}"
            )
        vision_out = parts.vision_projection.vision_dim
    if (parts.projection is not None or parts.vision_projection is not None) and text_out != vision_out:
        raise CheckpointError(
            f"the projection in {origin} leads to {text_out} dimensions, but the vision model of {parts.config.name} has {vision_out}"
        )
