"""Write a model to a folder or to the hub, as a whole-model checkpoint with config.json."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Protocol

from torch import Tensor

from talk2dino.errors import CheckpointError, ModelNotFoundError
from talk2dino.io.atomic import write_atomically
from talk2dino.models.checkpoint import clip_text_to_original, clip_vision_to_original, vision_to_original
from talk2dino.models.config import SegmenterConfig
from talk2dino.models.projection import Projection, to_original
from talk2dino.models.text import TextEncoder
from talk2dino.models.vision import VisionModel
from talk2dino.models.vit import TextTransformer, VisionTransformer


class Model(Protocol):
    """What is saved: a Segmenter, or :class:`talk2dino.models.loading.Parts`."""

    @property
    def vision(self) -> VisionModel: ...
    @property
    def text(self) -> TextEncoder: ...
    @property
    def projection(self) -> Projection | None: ...
    @property
    def vision_projection(self) -> Projection | None: ...
    @property
    def clip_vision(self) -> VisionTransformer | None: ...
    @property
    def config(self) -> SegmenterConfig: ...


def whole_model_tensors(model: Model) -> dict[str, Tensor]:
    """All weights of a model under their original names: model.*, clip_model.*, proj.*, vision_proj.*."""
    groups = {
        "model.": vision_to_original(model.vision),
        "clip_model.": clip_text_to_original(_clip_text(model)),
    }
    if model.clip_vision is not None:
        groups["clip_model."] |= clip_vision_to_original(model.clip_vision)
    for prefix, projection in (("proj.", model.projection), ("vision_proj.", model.vision_projection)):
        if projection is not None:
            if projection.activation != "tanh":
                raise CheckpointError(
                    f"a model whose projection has the activation {projection.activation!r} cannot be saved: whole-model "
                    "checkpoints have tanh; keep the model and the projection in separate folders"
                )
            groups[prefix] = to_original(projection)
    return {
        prefix + name: tensor.cpu().contiguous() for prefix, group in groups.items() for name, tensor in group.items()
    }


def _clip_text(model: Model) -> TextTransformer:
    """CLIP's text tower; raises CheckpointError where a text tower of train-text stands in its place."""
    tower = model.text.model
    if not isinstance(tower, TextTransformer):
        raise CheckpointError(
            "a model with a text tower of 'talk2dino train-text' cannot be saved in one file: save the model without it, and "
            "give the tower's folder with --text"
        )
    return tower


def save_model(model: Model, folder: Path) -> Path:
    """Write model.safetensors, config.json and, if it is not CLIP's, the tokenizer; each whole or not at all."""
    from safetensors.torch import save

    text = _clip_text(model).config
    config = model.config.to_dict() | {
        "heads": model.vision.num_heads,
        "text_heads": text.heads,
        "text_activation": text.activation,
        "rotary_attention": model.vision.rotary_attention,
        "templates": list(model.text.templates),
    }
    if model.clip_vision is not None:
        config["clip_vision_heads"] = model.clip_vision.config.heads
    weights = save(whole_model_tensors(model), {"format": "pt"})
    folder.mkdir(parents=True, exist_ok=True)
    if config["tokenizer"] != "clip":
        write_atomically(folder / config["tokenizer"], model.text.tokenizer.tokenizer.to_str())
    write_atomically(folder / "model.safetensors", weights)
    write_atomically(folder / "config.json", json.dumps(config, ensure_ascii=False, indent=2) + "\n")
    return folder


def push_model(model: Model, repository: str, *, private: bool, token: str | None) -> str:
    """Upload what :func:`save_model` writes, and return the repository's address.

    Raises:
        ModelNotFoundError: the hub cannot be reached or does not accept the upload.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder))
        try:
            address = str(api.create_repo(repository, private=private, exist_ok=True))
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Talk2DINO model")
        except (HfHubHTTPError, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelNotFoundError(
                f"cannot upload to {repository}: {reason}. Check that HF_TOKEN is set and the hub can be reached"
            ) from None
    return address
