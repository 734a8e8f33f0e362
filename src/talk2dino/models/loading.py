"""From a name, a folder or a hub id to the towers and the projection of a Segmenter."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from torch import Tensor

from talk2dino.errors import CheckpointError, InputError, ModelNotFoundError, Talk2DinoWarning
from talk2dino.models.catalog import CATALOG, ModelSpec, default_threshold, unknown_model
from talk2dino.models.checkpoint import clip_text_from_original, clip_vision_from_original, vision_from_original
from talk2dino.models.config import CONFIG, FORMAT, SegmenterConfig, read_config
from talk2dino.models.hub import WEIGHTS, HubOptions
from talk2dino.models.parts import Parts, attach_projection, check_sizes
from talk2dino.models.projection import from_original
from talk2dino.models.text import TextEncoder
from talk2dino.models.tokenizer import CLIP_CONTEXT, TextTokenizer
from talk2dino.models.vision import VisionModel
from talk2dino.models.weights import Tensors, below, read_tensors


class MicroModelWarning(Talk2DinoWarning):
    """``auto`` took the embedded model because vitb is not available."""


def load_parts(
    name: str | Path,
    *,
    projection: str | Path | None = None,
    text: str | Path | None = None,
    hub: HubOptions = HubOptions(),
    needs_projection: bool = True,
) -> Parts:
    """Load a model.

    Args:
        name: a catalog name, ``auto``, a local folder or a hub id.
        projection: a psi to use instead of the model's own: a file, or a folder written by ``train``.
        text: a folder written by ``train-text``, whose text tower is used instead of CLIP's.
        needs_projection: refuse a backbone without a psi. Feature extraction, ``train`` and methods such as freeda work
            without one.

    Raises:
        ModelNotFoundError: unknown name, folder or repository, or the hub cannot be reached.
        CheckpointError: damaged or foreign weights, a psi whose sizes do not fit, a psi trained with other weights, or a text
            tower of another text space.
    """
    if projection is not None and not Path(projection).exists():
        raise CheckpointError(f"no projection file or folder at {projection}")
    if str(name) == "auto":
        parts = _auto(hub)
    elif Path(name).is_dir():
        parts = _from_folder(Path(name), hub)
    elif str(name) in CATALOG:
        parts = _from_spec(CATALOG[str(name)], hub, complete=needs_projection and projection is None)
    elif _looks_like_hub_id(str(name)):
        parts = _from_repository(str(name), hub, None)
    else:
        raise unknown_model(str(name))
    if projection is not None:
        attach_projection(parts, Path(projection))
    if text is not None:
        from talk2dino.models.text_tower import attach_text

        attach_text(parts, Path(text))
    return parts


def _looks_like_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and all(name.split("/"))


def _auto(hub: HubOptions) -> Parts:
    """vitb if it is cached or can be downloaded, else micro with a warning."""
    try:
        return _from_spec(CATALOG["vitb"], hub)
    except ModelNotFoundError:
        warnings.warn(
            "the model vitb is not in the cache and cannot be downloaded, so the embedded model micro is used. It was trained "
            "on drawings of 16 classes (sky, grass, ball, tree, house ...) and does not work on photographs",
            MicroModelWarning,
            stacklevel=4,
        )
        return _from_spec(CATALOG["micro"], hub)


def _from_spec(spec: ModelSpec, hub: HubOptions, *, complete: bool = True) -> Parts:
    """A model of the catalog; ``complete``: refuse a backbone, which has no psi."""
    if spec.kind == "embedded":
        return _from_folder(Path(str(resources.files("talk2dino") / spec.repository)), hub)
    config = SegmenterConfig(spec.name, spec.size, spec.threshold, spec.variant)
    hub = replace(hub, revision=hub.revision or spec.revision)
    if spec.kind == "whole":
        return _from_repository(spec.repository, hub, config)
    if complete:
        raise ModelNotFoundError(
            f"{spec.name} is a vision model without a projection: add --projection FILE, or choose a complete model such "
            "as vitb (--model vitb)"
        )
    return _from_backbones(spec, hub, config)


def _from_repository(repository: str, hub: HubOptions, config: SegmenterConfig | None) -> Parts:
    """A whole-model checkpoint on the hub; ``config`` is used if the repository has no configuration of ours."""
    weights = hub.file(repository, WEIGHTS)
    try:
        file = hub.file(repository, CONFIG)
        values = read_config(file)
    except ModelNotFoundError:  # published repositories need no configuration of ours
        values = {}
    if values.get("format") == FORMAT:
        config = SegmenterConfig.from_dict(values, str(file))
        if config.tokenizer != "clip":
            hub.file(repository, config.tokenizer)
    return _from_weights(weights, config, repository, {"repository": repository, "revision": hub.revision or "main"})


def _from_folder(folder: Path, hub: HubOptions) -> Parts:
    """A folder of ``save_pretrained``, of ``train``, or with a whole-model checkpoint."""
    config_file = folder / CONFIG
    values = read_config(config_file) if config_file.is_file() else {}
    name = folder.resolve().name
    if "base_model" in values:  # written by train: a projection, and the name of the model that it goes with
        if not isinstance(values["base_model"], str):
            raise CheckpointError(f"{config_file}: base_model must be a model's name; got {values['base_model']!r}")
        try:
            parts = load_parts(values["base_model"], hub=hub, needs_projection=False)
        except RecursionError:
            raise CheckpointError(f"{config_file}: base_model leads back to this folder") from None
        attach_projection(parts, folder)
        parts.config = replace(parts.config, name=name, source={"folder": str(folder)})
        return parts
    candidates = [folder / WEIGHTS, *sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.pth"))]
    weights = next((path for path in candidates if path.is_file()), None)
    if weights is None:
        raise CheckpointError(f"the folder {folder} holds no model: expected {WEIGHTS}, and {CONFIG} beside it")
    config = SegmenterConfig.from_dict(values, str(config_file)) if values.get("format") == FORMAT else None
    source = config.source if config is not None and config.source else {"folder": folder.name}
    return _from_weights(weights, config, name, source)


def _from_weights(weights: Path, config: SegmenterConfig | None, name: str, source: dict[str, Any]) -> Parts:
    """A whole-model checkpoint: ``model.*``, ``clip_model.*``, and ``proj.*`` or ``vision_proj.*`` or both.

    Without a configuration, the threshold is the default for the vision tower's width.
    """
    groups = _groups(read_tensors(weights), weights)
    given = config or SegmenterConfig(name)
    clip = groups["clip_model."]
    try:
        vision = vision_from_original(groups["model."], heads=given.heads, rotary_attention=given.rotary_attention)
        tokenizer = _tokenizer(weights.parent, given, clip)
        clip_text = clip_text_from_original(clip, heads=given.text_heads, activation=given.text_activation)
        clip_vision = None
        if "visual.conv1.weight" in clip:
            clip_vision = clip_vision_from_original(
                clip, heads=given.clip_vision_heads, activation=given.text_activation
            )
        projection, vision_projection = (
            from_original(groups[prefix]) if groups[prefix] else None for prefix in ("proj.", "vision_proj.")
        )
    except (CheckpointError, InputError) as error:
        raise CheckpointError(f"{weights}: {error}") from None
    if config is None:
        given = replace(given, threshold=default_threshold(vision.dim))
    given = replace(given, source=source)
    text = TextEncoder(clip_text, tokenizer, given.templates, disk_cache=True)
    parts = Parts(vision, text, projection, given, clip_vision, vision_projection)
    check_sizes(parts, str(weights))
    return parts


def _groups(tensors: Tensors, weights: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of a whole-model checkpoint by prefix.

    Raises:
        CheckpointError: other tensors than those of a whole model, or one of the towers is missing.
    """
    groups = {prefix: below(tensors, prefix) for prefix in ("model.", "clip_model.", "proj.", "vision_proj.")}
    ignored = ("logit_scale", "pamr.")
    foreign = sorted(name for name in tensors if not name.startswith((*groups, *ignored)))
    absent = [f"{prefix}*" for prefix in ("model.", "clip_model.") if not groups[prefix]]
    if foreign or absent:
        found = f"unexpected: {', '.join(foreign[:5])}" if foreign else f"missing: {', '.join(absent)}"
        alone = any(name.startswith(("linear_layer.", "layers.0.")) for name in tensors)
        raise CheckpointError(
            f"{weights} is not a whole Talk2DINO model: expected the keys model.*, clip_model.* and proj.*; {found}"
            + ("; this is a projection: choose a model and add --projection" if alone else "")
        )
    return groups


def _tokenizer(folder: Path, config: SegmenterConfig, clip: Tensors) -> TextTokenizer:
    """The tokenizer that a configuration names, if its vocabulary fits CLIP's tensors.

    Raises:
        CheckpointError: the text tower has fewer token or position embeddings than the tokenizer needs.
    """
    positions, words = (
        len(clip[name]) if name in clip and clip[name].ndim else 0
        for name in ("positional_embedding", "token_embedding.weight")
    )
    if config.tokenizer == "clip":
        tokenizer, context = TextTokenizer.clip(positions), CLIP_CONTEXT
    else:
        tokenizer, context = TextTokenizer.from_file(folder / config.tokenizer, positions), 1
    for name, rows, needed in (
        ("positional_embedding", positions, context),
        ("token_embedding.weight", words, tokenizer.vocabulary),
    ):
        if 0 < rows < needed:
            raise CheckpointError(
                f"{name} has {rows} rows, but the tokenizer ({config.tokenizer}) needs {needed}: check that the file is "
                f"complete, and that {CONFIG} is beside it and names the right tokenizer"
            )
    return tokenizer


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
        vision, encoder, None, replace(config, source=source), aligned=False,
        late_clip_vision=lambda: clip_image_from_hub(text, find_text),
    )  # fmt: skip
