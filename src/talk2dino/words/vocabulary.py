"""Vocabularies: classes and their embeddings in a small safetensors file, tied to the model that they were made with.

embeddings   (R, D) float32, L2-normalised
calibration  (R, 2) float32 slope and offset of each embedding's cosine; only if there is one
clip         (N, C) float32 CLIP text embeddings; only for methods that need them
__metadata__ one entry "vocabulary": JSON with version, names, negative, counts, model, space, notes, understood, made
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from talk2dino.errors import DataError, InputError
from talk2dino.io.atomic import write_atomically
from talk2dino.io.names import readable
from talk2dino.types import TextFeatures

VERSION = 1
_KEY = "vocabulary"


def save_vocabulary(text: TextFeatures, path: str | Path, *, made: str = "") -> Path:
    """Write classes to a vocabulary file, whole or not at all.

    Args:
        made: how they were made, for ``talk2dino vocabulary list``.

    Raises:
        InputError: no classes, or another suffix than .safetensors. OutputError: the file cannot be written.
    """
    from safetensors.torch import save

    path = check_vocabulary_path(path)
    if not len(text):
        raise InputError("there are no classes to save in a vocabulary")
    tensors = {"embeddings": text.embeddings, "calibration": text.calibration, "clip": text.clip}
    about = {
        "version": VERSION, "names": text.names, "negative": text.negative, "counts": text.counts, "model": text.model,
        "space": text.space, "notes": text.notes, "understood": text.understood, "made": made,
    }  # fmt: skip
    stored = {key: value.detach().cpu().float().contiguous() for key, value in tensors.items() if value is not None}
    return write_atomically(path, save(stored, {_KEY: json.dumps(about, ensure_ascii=False)}))


def check_vocabulary_path(path: str | Path) -> Path:
    """The path, if a vocabulary can be written there."""
    if Path(path).suffix.lower() != ".safetensors":
        raise InputError(f"a vocabulary is a .safetensors file; got {readable(path)}")
    return Path(path)


def load_vocabulary(path: str | Path, *, space: str | None = None, model: str = "") -> TextFeatures:
    """Read a vocabulary file.

    Args:
        space: fingerprint that the vocabulary must have, as ``Segmenter.method.space``; None: any.
        model: name of the model that it is for, for the message.

    Raises:
        DataError: no such file, damaged, or not a vocabulary. InputError: made with another model or method.
    """
    text, _ = read_vocabulary(path)
    if space is not None and text.space != space:
        raise InputError(
            f"the vocabulary {readable(path)} was made with the model {text.model} ({text.space.partition(':')[0]}); it does "
            f"not fit the model {model} ({space.partition(':')[0]}), whose weights or method differ: use the model that it was "
            "made with, or build it again (talk2dino vocabulary build)"
        )
    return text


def read_vocabulary(path: str | Path) -> tuple[TextFeatures, str]:
    """A vocabulary and how it was made; errors as :func:`load_vocabulary`."""
    import torch
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise DataError(f"no vocabulary at {readable(path)}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about["version"] > VERSION:
            raise DataError(
                f"{readable(path)} is a vocabulary of version {about['version']}; this version of talk2dino reads up to "
                f"{VERSION}: update it"
            )
        if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
            raise ValueError("its numbers are not finite")
        text = TextFeatures(
            tuple(map(str, about["names"])), tensors["embeddings"], int(about["negative"]), str(about["model"]),
            str(about["space"]), tensors.get("clip"), tuple(about["notes"]), tuple(map(int, about["counts"])),
            tuple((str(a), str(b), str(c)) for a, b, c in about["understood"]), tensors.get("calibration"),
        )  # fmt: skip
        return text, str(about["made"])
    except DataError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{readable(path)} is damaged or not a vocabulary of talk2dino ({error})") from None


def merge_vocabularies(several: list[TextFeatures]) -> TextFeatures:
    """All classes together; see :meth:`TextFeatures.__add__`."""
    merged = several[0]
    for text in several[1:]:
        merged = merged + text
    return replace(merged, notes=tuple(dict.fromkeys(merged.notes)))


def count_classes(text: TextFeatures) -> str:
    """``"3 classes, 1 of background"``."""
    counted = "1 class" if text.positive == 1 else f"{text.positive} classes"
    return f"{counted}, {text.negative} of background" if text.negative else counted
