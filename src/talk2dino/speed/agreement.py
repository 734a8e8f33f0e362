"""Labels of every fast path against the float32 reference path: torch, and every stage in its plain version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from talk2dino.device import choose_device
from talk2dino.engines import check_engine
from talk2dino.errors import Talk2DinoError
from talk2dino.evaluation.world import held_out_seeds
from talk2dino.segmenter import Segmenter
from talk2dino.speed.figures import Figure, Note
from talk2dino.speed.plan import Pair, Plan
from talk2dino.speed.workload import RANDOM_MODELS, load
from talk2dino.stages.kernels import plain_versions
from talk2dino.world import CLASS_NAMES, render, sample_scene

SCENES = 6
#: Shares of pixels that must agree.
GOALS = {torch.float32: 0.999, torch.bfloat16: 0.98}
#: How each scene is segmented.
SETTINGS: tuple[dict[str, Any], ...] = ({}, {"background": 0.5, "clean": True, "refine": True})


def agreement(plan: Plan) -> Iterator[Figure | Note]:
    """Drawn scenes with trained weights; with random weights the classes nearly tie, and rounding decides."""
    model = "micro" if plan.options.model in RANDOM_MODELS else plan.options.model
    scenes = [render(sample_scene(seed, aspect=1.3), 240).image for seed in held_out_seeds(SCENES)]
    with plain_versions():
        expected = labels_of(load(model, device="cpu", dtype="float32"), scenes)
    pairs = [
        Pair(dtype, engine) for engine in plan.options.compared_engines for dtype in GOALS
        if (engine, dtype) != ("onnx", torch.bfloat16)
    ]  # fmt: skip
    for pair in pairs:
        device = choose_device("cpu") if pair.engine in ("openvino", "onnx") else plan.device
        try:
            check_engine(pair.engine, device, pair.dtype)
            labels = labels_of(load(model, device=device, dtype=pair.dtype, engine=pair.engine), scenes)
        except Talk2DinoError as error:
            yield Note("agreement", f"{pair} is skipped: {error}")
            continue
        plain, refined = (float(np.mean(np.array(a) == np.array(b))) for a, b in zip(labels, expected, strict=True))
        yield Figure(
            "agreement", f"pixels labelled as on the float32 reference path, {model}", min(plain, refined), "share",
            (">=", GOALS[pair.dtype]), pair.settings,
            f"{100 * plain:.3f} %, with background, cleaning and refinement {100 * refined:.3f} %, {SCENES} scenes, "
            f"{len(CLASS_NAMES)} classes",
        )  # fmt: skip


def labels_of(segmenter: Segmenter, images: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """Labels of the images with each of :data:`SETTINGS`."""
    return [[result.labels for result in segmenter.segment_batch(images, CLASS_NAMES, **one)] for one in SETTINGS]
