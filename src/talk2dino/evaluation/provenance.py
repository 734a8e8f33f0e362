"""What produced a result: the options with everything resolved that they left open, and fingerprints of what was read.

The strings that were typed do not tell: "auto" is another model on another machine, a folder may hold other weights by
now, a synonym file other words. So the configuration of a run holds what was loaded, and a run goes on only with that.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from talk2dino.errors import InputError
from talk2dino.evaluation.datasets import Sample
from talk2dino.evaluation.journal import hash_names
from talk2dino.evaluation.options import EvaluationOptions
from talk2dino.models.fingerprint import weights_checksum

_TOWERS = {
    "talk2dino": ("vision", "text", "projection", "vision_projection"), "clip-dense": ("clip_vision", "text"),
    "dino-clusters": ("vision",), "freeda": ("vision", "text", "clip_vision"),
}  # fmt: skip


def resolved_config(
    options: EvaluationOptions, system: Any, samples: Sequence[Sample], *, threshold: float | None, batch_size: int
) -> dict[str, Any]:
    """The exact configuration of a run.

    Args:
        system: the loaded system. samples: the pictures of the whole run, all shards together.
        threshold: the background threshold used, None where there is no background.

    Returns:
        Plain values. All but "run" (where things lay and what it ran on) decide the result.
    """
    config = options.to_config()
    own = getattr(system, "config", None)
    text = getattr(system, "text", None)
    cleaning = getattr(own, "variant", None) if config["clean"] else None
    return config | {
        "model": getattr(system, "name", options.model),
        "dtype": _dtype(system, options),
        "background": threshold,
        "cleaning": cleaning,
        "templates": list(getattr(text, "templates", ())) or None,
        "size": getattr(own, "size", None) or getattr(getattr(system, "loop", None), "size", None),
        "system": {k: v for k, v in getattr(system, "info", {}).items() if k not in ("method", "model")},
        "labels": dict(Counter(sample.source for sample in samples if sample.source)),
        "pictures": {"count": len(samples), "sha256": hash_names(sample.name for sample in samples)},
        "fingerprints": fingerprints(options, system),
        "run": {
            "model": options.model,
            "projection": None if options.projection is None else str(options.projection),
            "source": getattr(own, "source", {}),
            "data": None if options.data is None else str(options.data),
            "device": str(getattr(system, "device", options.device)),
            "engine": getattr(system, "engine", "torch"),
            "batch_size": batch_size,
        },
    }


def fingerprints(options: EvaluationOptions, system: Any) -> dict[str, str]:
    """Hashes of weights and files that decide a result."""
    found = {}
    for name in _TOWERS[options.method]:
        tower = getattr(system, name, None)
        if isinstance(tower, nn.Module):
            found[name] = weights_checksum(tower)
    store = getattr(system, "store", None)
    if store is not None:
        found["prototypes"] = store.fingerprint()
    if options.synonyms is not None:
        found["synonyms"] = hash_file(options.synonyms)
    return found


def hash_file(path: str | Path) -> str:
    """SHA-256 (first 16 digits) of a file's content."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _dtype(system: Any, options: EvaluationOptions) -> str:
    """Of the tower that does the work; everything after it is float32."""
    tower = getattr(system, "clip_vision" if options.method == "clip-dense" else "vision", None)
    if not isinstance(tower, nn.Module):
        return options.dtype
    return str(next(tower.parameters()).dtype).removeprefix("torch.")
