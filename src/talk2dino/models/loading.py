"""From a name, a folder or a hub id to the parts of a Segmenter."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

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
from talk2dino.models.hub import WHAT_TO_DO, hub_file
from talk2dino.models.projection import Projection, from_published, load_projection
from talk2dino.models.text import TextEncoder
from talk2dino.models.tokenizer import TextTokenizer
from talk2dino.models.vision import VisionModel

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
    clip_vision: nn.Module | None = None
    vision_projection: Projection | None = None
    late_clip_vision: Callable[[], nn.Module] | None = None


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
            groups["clip_model."], heads=config.text_heads, activation=config.text_activation, end_token=tokenizer.end
        )
        clip_vision = None
        if any(name.startswith("visual.conv1") for name in groups["clip_model."]):
            clip_vision = clip_vision_from_published(
                groups["clip_model."], heads=config.clip_vision_heads, activation=config.text_activation
            ).eval().requires_grad_(False)  # fmt: skip
        projection = from_published(groups["proj."]) if groups["proj."] else None
        vision_projection = from_published(groups["vision_proj."]) if groups["vision_proj."] else None
    except CheckpointError as error:
        raise CheckpointError(f"{weights}: {error}") from None
    text = TextEncoder(clip_text, tokenizer, config.templates, disk_cache=True)
    parts = Parts(vision, text, projection, config, clip_vision, vision_projection)
    check_sizes(parts, str(weights))
    return parts


def _from_backbones(spec: ModelSpec, hub: HubOptions, config: SegmenterConfig) -> Parts:
    """A vision model and CLIP in transformers' layout, for a projection of one's own."""
    from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection, CLIPVisionModelWithProjection
    from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
    from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import Dinov2WithRegistersModel
    from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTModel

    options: dict[str, Any] = {"cache_dir": hub.cache_dir, "local_files_only": hub.local_files_only}
    kinds: dict[str, Any] = {
        "dinov2": Dinov2Model,
        "dinov2_with_registers": Dinov2WithRegistersModel,
        "dinov3_vit": DINOv3ViTModel,
    }
    kind = read_json(hub.file(spec.repository, CONFIG)).get("model_type")
    if kind not in kinds:
        raise CheckpointError(f"{spec.repository} holds a {kind!r} model; accepted: {', '.join(kinds)}")

    class TextTower(CLIPTextModelWithProjection):
        """CLIP's repositories hold both towers: the other one is no news."""

        _keys_to_ignore_on_load_unexpected = ["^vision_model", "^visual_projection", "^logit_scale"]  # noqa: RUF012

    class ImageTower(CLIPVisionModelWithProjection):
        _keys_to_ignore_on_load_unexpected = ["^text_model", "^text_projection", "^logit_scale"]  # noqa: RUF012

    backbone = _pretrained(kinds[kind], spec.repository, revision=hub.revision, **options)
    clip_text = _pretrained(TextTower, str(spec.text), **options)
    clip_text.config.eos_token_id = 49407  # some published configurations carry an outdated id
    vision = VisionModel(backbone, rotary_attention=config.rotary_attention)
    tokenizer = TextTokenizer.clip(clip_text.config.max_position_embeddings)
    text = TextEncoder(clip_text, tokenizer, config.templates, disk_cache=True)
    source = {"vision": spec.repository, "text": spec.text, "revision": hub.revision or "main"}
    return Parts(
        vision, text, None, replace(config, source=source),
        late_clip_vision=lambda: _pretrained(ImageTower, str(spec.text), **options).eval().requires_grad_(False),
    )  # fmt: skip


def _pretrained(kind: Any, repository: str, **options: Any) -> Any:
    """A transformers model in float32, with every weight from the hub: transformers itself would make up what is missing.

    Raises:
        ModelNotFoundError: not in the cache and not to be had.
        CheckpointError: with the weights that are missing or of another shape.
    """
    try:
        model, found = kind.from_pretrained(
            repository, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except OSError as error:
        raise ModelNotFoundError(f"{str(error).splitlines()[0]}. {WHAT_TO_DO}") from None
    needed = {name for name in found["missing_keys"] if not name.endswith("mask_token")}  # masks are for pretraining
    names = sorted(needed | {name for name, *_ in found["mismatched_keys"]})
    if names:
        raise CheckpointError(
            f"{repository} lacks {len(names)} weights of the model that its {CONFIG} describes, or has them in another shape: "
            f"{', '.join(names[:5])}{' ...' if len(names) > 5 else ''}; delete it from the cache to download it again"
        )
    return model


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
