"""What made a result: the options with everything resolved, and fingerprints of weights and files.

The options as given are not enough: "auto" may be another model on another machine, a folder may hold other weights by now,
and a synonym file other words. A run is resumed only if all of this is the same.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from talk2dino.evaluation.datasets import Benchmark, Sample
from talk2dino.evaluation.journal import hash_names
from talk2dino.evaluation.options import EvaluationOptions
from talk2dino.segmenter import Segmenter

#: Increases when the protocol changes in a way that changes figures. 0.1.0 had none; 2 resizes as OpenCV does, to the bit.
PROTOCOL = 2


def resolved_config(
    options: EvaluationOptions, benchmark: Benchmark, segmenter: Segmenter, samples: Sequence[Sample], *,
    threshold: float | None,
) -> dict[str, Any]:  # fmt: skip
    """The exact configuration of a run.

    Args:
        samples: the images of the whole run, all shards together.
        threshold: the background threshold used; None if there is no background.

    Returns:
        Plain values. All but "run" (where things are and what it ran on) decide the result.
    """
    config, method = segmenter.config, segmenter.method
    settings = options.settings_on(benchmark)
    return settings | {
        "protocol": PROTOCOL,
        "model": segmenter.name,
        "dtype": str(segmenter.dtype).removeprefix("torch."),
        "background": threshold,
        "cleaning": config.variant if settings["clean"] else None,
        "templates": list(segmenter.text.templates),
        "size": method.size,
        "system": method.options,
        "labels": dict(Counter(sample.source for sample in samples if sample.source)),
        "images": {"count": len(samples), "sha256": hash_names(sample.name for sample in samples)},
        "fingerprints": _fingerprints(options, segmenter),
        "run": {
            "model": options.model,
            "projection": None if options.projection is None else str(options.projection),
            "source": config.source,
            "data": None if options.data is None else str(options.data),
            "device": str(segmenter.device),
            "engine": segmenter.engine,
            "batch_size": options.batch_size,
            "threshold_source": method.threshold_source if threshold == method.threshold else "set by the caller",
        },
    }


def _fingerprints(options: EvaluationOptions, segmenter: Segmenter) -> dict[str, str]:
    """Hashes of the weights and files that decide a result."""
    method = segmenter.method
    found = segmenter.towers.checksums(method.facts.towers) | method.fingerprints()
    if options.synonyms is not None:
        found["synonyms"] = hashlib.sha256(options.synonyms.read_bytes()).hexdigest()[:16]
    return found
