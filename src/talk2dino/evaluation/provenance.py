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

from talk2dino.errors import InputError
from talk2dino.evaluation.datasets import Sample
from talk2dino.evaluation.journal import hash_names
from talk2dino.evaluation.options import EvaluationOptions


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
    method, towers = system.method, system.towers
    return config | {
        "model": towers.name,
        "dtype": str(towers.dtype).removeprefix("torch."),
        "background": threshold,
        "cleaning": method.options.get("variant") if config["clean"] else None,
        "templates": list(towers.text.templates),
        "size": method.size,
        "system": method.options,
        "labels": dict(Counter(sample.source for sample in samples if sample.source)),
        "pictures": {"count": len(samples), "sha256": hash_names(sample.name for sample in samples)},
        "fingerprints": fingerprints(options, system),
        "run": {
            "model": options.model,
            "projection": None if options.projection is None else str(options.projection),
            "source": towers.config.source,
            "data": None if options.data is None else str(options.data),
            "device": str(towers.device),
            "engine": towers.engine,
            "batch_size": batch_size,
        },
    }


def fingerprints(options: EvaluationOptions, system: Any) -> dict[str, str]:
    """Hashes of weights and files that decide a result."""
    found = system.towers.checksums(system.method.facts.towers) | system.method.fingerprints()
    if options.synonyms is not None:
        found["synonyms"] = hash_file(options.synonyms)
    return found


def hash_file(path: str | Path) -> str:
    """SHA-256 (first 16 digits) of a file's content."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
