"""Write a Segmenter to a folder or to the hub, in the published layout."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from talk2dino.errors import CheckpointError, ModelNotFoundError
from talk2dino.io.atomic import write_atomically
from talk2dino.models import projection as psi
from talk2dino.models.checkpoint import clip_text_to_published, clip_vision_to_published, vision_to_published

if TYPE_CHECKING:
    from talk2dino.segmenter import Segmenter


def published_tensors(segmenter: Segmenter) -> dict[str, Tensor]:
    """All weights of a segmenter under their published names: model.*, clip_model.*, proj.*."""
    groups = {
        "model.": vision_to_published(segmenter.vision),
        "clip_model.": clip_text_to_published(segmenter.text.model),
    }
    if segmenter.clip_vision is not None:
        groups["clip_model."] |= clip_vision_to_published(segmenter.clip_vision)
    for prefix, projection in (("proj.", segmenter.projection), ("vision_proj.", segmenter.vision_projection)):
        if projection is not None:
            if projection.activation != "tanh":
                raise CheckpointError(
                    f"a projection with the activation {projection.activation} has no published layout"
                )
            groups[prefix] = psi.to_published(projection)
    return {
        prefix + name: tensor.cpu().contiguous() for prefix, group in groups.items() for name, tensor in group.items()
    }


def save_segmenter(segmenter: Segmenter, folder: Path) -> Path:
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    vision, text = segmenter.vision.config, segmenter.text.model.config
    config = segmenter.config.to_dict()
    config["heads"] = vision.heads
    config["text_heads"] = text.heads
    clip_vision: Any = segmenter.clip_vision
    if clip_vision is not None:
        config["clip_vision_heads"] = clip_vision.config.heads
    config["text_activation"] = text.activation
    config["rotary_attention"] = segmenter.vision.rotary_attention
    config["templates"] = list(segmenter.text.templates)
    if config["tokenizer"] != "clip":
        write_atomically(folder / config["tokenizer"], segmenter.text.tokenizer.tokenizer.to_str())
    write_atomically(folder / "model.safetensors", save(published_tensors(segmenter), {"format": "pt"}))
    write_atomically(folder / "config.json", json.dumps(config, ensure_ascii=False, indent=2) + "\n")
    return folder


def push_segmenter(segmenter: Segmenter, repository: str, *, private: bool, token: str | None) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save_segmenter(segmenter, Path(folder))
        try:
            address = str(api.create_repo(repository, private=private, exist_ok=True))
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Talk2DINO model")
        except (HfHubHTTPError, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelNotFoundError(
                f"cannot upload to {repository}: {reason}. Is HF_TOKEN set, and the hub reachable?"
            ) from None
    return address
