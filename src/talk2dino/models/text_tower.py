"""Text towers for other languages: an encoder of transformers whose output lies in the CLIP text space of a model.

``talk2dino train-text`` writes them (:mod:`talk2dino.training.text`), ``--text FOLDER`` uses them:

    text.safetensors   weights of the encoder and of the linear layer into the text space
    encoder/           the encoder's configuration and its tokenizer, as transformers writes them
    config.json        languages, templates, and the fingerprint of the text space that the tower belongs to

In front of psi, such a tower stands in the place of CLIP's text tower, so psi, patches and thresholds stay as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from talk2dino.errors import CheckpointError, MissingExtraError, ModelNotFoundError, PromptError
from talk2dino.io.atomic import write_atomically
from talk2dino.io.names import readable
from talk2dino.models.config import CONFIG, read_config
from talk2dino.models.fingerprint import same_weights, weights_in_halves
from talk2dino.models.templates import check_templates
from talk2dino.models.text import TextEncoder
from talk2dino.models.weights import check_values, read_tensors, safetensors_bytes
from talk2dino.words.scripts import check_languages

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from talk2dino.models.parts import Parts

FORMAT = "talk2dino-text-1"
WEIGHTS, ENCODER = "text.safetensors", "encoder"


@dataclass(frozen=True)
class TowerConfig:
    """What a tower's output depends on besides weights and tokenizer."""

    context: int  # tokens per text, special tokens included
    pooling: str = "mean"


class TextTower(nn.Module):
    """t = W mean_i h_i + b, where h are the last hidden states of an encoder.

    It is called as CLIP's text tower is, so that :class:`talk2dino.models.text.TextEncoder` runs either.

    Args:
        encoder: maps ``input_ids`` and ``attention_mask`` to ``last_hidden_state``.
        width: of the hidden states.
        dim: C, the width of the text space.
        context: tokens per text.
    """

    def __init__(self, encoder: nn.Module, width: int, dim: int, context: int) -> None:
        super().__init__()
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # type: ignore[assignment]  # a layer on the first token, which is not used
        self.encoder, self.proj, self.config = encoder, nn.Linear(width, dim), TowerConfig(context)

    def forward(self, tokens: Tensor, ends: Tensor) -> Tensor:
        """(B, L) token ids and (B,) places of the end tokens -> (B, C), not normalised."""
        mask = torch.arange(tokens.shape[1], device=tokens.device) <= ends[:, None]
        hidden = self.encoder(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return self.proj((hidden * weights).sum(1) / weights.sum(1))


class HubTokenizer:
    """A tokenizer of transformers, called as :class:`talk2dino.models.tokenizer.TextTokenizer` is."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context: int) -> None:
        end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
        if end is None:
            raise CheckpointError("the encoder's tokenizer has neither a [SEP] nor an end token")
        self.tokenizer, self.context, self.end = tokenizer, context, int(end)
        self.pad = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end)

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return len(self.tokenizer)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what token ids depend on."""
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        content = fast.to_str() if fast is not None else json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        return hashlib.sha256(f"{self.context} {content}".encode()).hexdigest()

    def __call__(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        """(N, context) token ids, padded; see :meth:`talk2dino.models.tokenizer.TextTokenizer.__call__`."""
        rows = torch.full((len(texts), self.context), self.pad, dtype=torch.long)
        found = self.tokenizer(list(texts), add_special_tokens=True, truncation=False, verbose=False) if texts else {}
        for i, ids in enumerate(found["input_ids"] if texts else ()):
            if len(ids) > self.context and not truncate:
                raise PromptError(
                    f"a prompt has {len(ids)} tokens ({texts[i][:40]!r}...); at most {self.context} tokens are accepted, "
                    "including the template: shorten it"
                )
            if ids[-1] != self.end:
                raise CheckpointError(
                    "the encoder's tokenizer does not put its [SEP] or end token at the end of a text"
                )
            kept = ids if len(ids) <= self.context else [*ids[: self.context - 1], self.end]
            rows[i, : len(kept)] = torch.tensor(kept)
        return rows


# --- folders -----------------------------------------------------------------------------------------------------------


def describe_space(parts: Parts) -> dict[str, Any]:
    """What a tower's configuration records about the text space that it is made for."""
    return {"name": parts.config.name, "dim": parts.text.dim, "weights": weights_in_halves(parts.text.model)}


def save_text_tower(folder: Path, tower: TextTower, tokenizer: HubTokenizer, config: Mapping[str, Any]) -> None:
    """Write a tower; ``config`` holds what :func:`attach_text` needs, and what else is to be recorded."""
    encoder: PreTrainedModel = tower.encoder  # type: ignore[assignment]
    encoder.config.save_pretrained(folder / ENCODER)
    tokenizer.tokenizer.save_pretrained(folder / ENCODER)
    tensors = {name: value.detach().cpu().contiguous() for name, value in tower.state_dict().items()}
    write_atomically(folder / WEIGHTS, safetensors_bytes(tensors, {"format": "pt"}))
    values = {"format": FORMAT, "context": tower.config.context, **config}
    write_atomically(folder / CONFIG, json.dumps(values, ensure_ascii=False, indent=1) + "\n")


def attach_text(parts: Parts, folder: Path) -> None:
    """Replace CLIP's text tower by the one in a folder of ``train-text``.

    Raises:
        CheckpointError: the folder holds no text tower, is damaged, or belongs to the text space of another model.
        MissingExtraError: transformers is not installed.
    """
    if not (folder / CONFIG).is_file():
        unfinished = "; its run is not finished: repeat the command" if (folder / "checkpoint.pt").is_file() else ""
        raise CheckpointError(
            f"no text tower at {readable(folder)}: expected a folder written by 'talk2dino train-text'{unfinished}"
        )
    values = read_config(folder / CONFIG)
    if values.get("format") != FORMAT:
        raise CheckpointError(
            f"{readable(folder)} holds no text tower (the format in {CONFIG} is {values.get('format')!r}, expected {FORMAT!r}): "
            "--text takes a folder written by 'talk2dino train-text'"
        )
    try:
        space, context, languages = values["space"], int(values["context"]), check_languages(values["languages"])
        templates = check_templates(values["templates"])
        recorded, name, dim = dict(space["weights"]), str(space["name"]), int(space["dim"])
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{readable(folder / CONFIG)} is damaged: {reason}") from None
    if dim != parts.text.dim or not same_weights(parts.text.model, recorded):
        raise CheckpointError(
            f"the text tower in {readable(folder)} belongs to the text space of {name} ({dim} dimensions), and the model "
            f"{parts.config.name} reads another one ({parts.text.dim} dimensions), so its results would be noise: use it "
            f"with {name} (--model), or train one for this model with 'talk2dino train-text --model'"
        )
    tower, tokenizer = _read(folder, dim, context)
    parts.text = TextEncoder(tower, tokenizer, templates, disk_cache=True)
    source = {**parts.config.source, "text": folder.name}
    parts.config = replace(parts.config, languages=languages, templates=tuple(templates), source=source)


def _read(folder: Path, dim: int, context: int) -> tuple[TextTower, HubTokenizer]:
    encoder, tokenizer = _from_transformers(str(folder / ENCODER), weights=False)
    tower = TextTower(encoder, encoder.config.hidden_size, dim, context)
    state = read_tensors(folder / WEIGHTS)
    check_values(state, "the text tower")
    try:
        tower.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{readable(folder / WEIGHTS)} does not fit {ENCODER}/{CONFIG}: {reason}") from None
    return tower, HubTokenizer(tokenizer, context)


def load_encoder(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A pretrained encoder and its tokenizer, from a folder or the hub. No remote code is run.

    Raises:
        ModelNotFoundError: no such folder or repository, or the hub cannot be reached.
        CheckpointError: not an encoder: a decoder, an encoder with a decoder, or without hidden states.
        MissingExtraError: transformers is not installed.
    """
    encoder, tokenizer = _from_transformers(name, weights=True)
    config = encoder.config
    if config.is_encoder_decoder or getattr(config, "is_decoder", False) or not hasattr(config, "hidden_size"):
        raise CheckpointError(
            f"{name} holds a {config.model_type} model; train-text needs an encoder such as BERT, MiniLM or XLM-R"
        )
    return encoder, tokenizer


def _from_transformers(name: str, *, weights: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    with quiet_transformers():
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        here = Path(name).is_dir()
        safely: dict[str, Any] = {"local_files_only": here, "trust_remote_code": False}
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, **safely)
            if weights:
                return AutoModel.from_pretrained(name, **safely), tokenizer
            config = AutoConfig.from_pretrained(name, **safely)
            return AutoModel.from_config(config), tokenizer
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            if here:
                raise CheckpointError(f"cannot read an encoder from {readable(name)}: {reason}") from None
            raise ModelNotFoundError(
                f"no encoder {name!r}: it is neither a folder nor a model that is cached or can be downloaded from the hub "
                f"({reason})"
            ) from None


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Import transformers without its progress bars and advice.

    Raises:
        MissingExtraError: it is not installed.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        from transformers.utils import logging
    except ImportError:
        raise MissingExtraError.of("transformers", "translate", "a text tower for another language") from None
    before = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            logging.enable_progress_bar()
