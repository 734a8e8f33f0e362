"""A folder of 640 x 480 JPEGs, from reading to writing, against the bare vision model at the same size and batch."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from talk2dino.errors import Talk2DinoError
from talk2dino.folder import FolderOptions, run_folder
from talk2dino.io.settings import build_options
from talk2dino.models.preprocess import normalise, resize_image, to_pixels
from talk2dino.pipeline import plan_view
from talk2dino.segmenter import Segmenter
from talk2dino.speed.clocks import seconds
from talk2dino.speed.figures import Figure, Note
from talk2dino.speed.plan import Pair, Plan
from talk2dino.speed.workload import class_names, measure_each, photograph, run_vision, write_photographs
from talk2dino.words.prompts import read_prompts

TURNS = 3
#: What is written -> its name in the figure, the share of the folder that is measured, and the goal.
KINDS: dict[tuple[str, ...], tuple[str, float, tuple[str, float] | None]] = {
    ("palette",): ("labels written", 1.0, (">=", 0.85)),
    ("palette", "overlay"): ("labels and overlays written", 0.25, None),
}


def folder_runs(plan: Plan) -> Iterator[Figure | Note]:
    """Every folder model of the plan with every pair of dtype and engine."""
    return measure_each(plan, "folder", plan.folder_models, _one)


def _one(plan: Plan, pair: Pair, segmenter: Segmenter) -> Iterator[Figure]:
    batch, model = max(plan.batches), segmenter.name
    seen = plan_view((480, 640), "whole", segmenter.method).seen
    pixels = normalise(torch.stack([to_pixels(resize_image(photograph(480, 640), seen))] * batch).to(plan.device))
    run_vision(segmenter, pixels)
    rate = batch / seconds(partial(run_vision, segmenter, pixels), plan.device)
    passes = -(-min(1000, max(4 * batch, round(plan.options.folder_seconds * rate))) // batch)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        paths = write_photographs(work / "images", passes * batch)
        segment_folder(segmenter, paths[:batch], work / "warm", ("palette", "overlay"), batch)
        for kinds, (what, part, goal) in KINDS.items():
            some = max(1, int(part * passes))
            bare = partial(run_vision, segmenter, pixels, some)
            shares, rates = [], []
            for turn in range(TURNS):  # the bare vision model runs before and after each folder
                before = seconds(bare, plan.device)
                spent = segment_folder(segmenter, paths[: some * batch], work / f"{kinds[-1]}{turn}", kinds, batch)
                shares.append((before + seconds(bare, plan.device)) / 2 / spent)
                rates.append(some * batch / spent)
            yield Figure(
                "folder", f"images per second / bare vision model's, {what}", statistics.median(shares), "share",
                goal if model in ("micro", "random-vitb") else None, {"model": model} | pair.settings | {"batch": batch},
                f"{statistics.median(rates):.2f} images/s, {some * batch} images, "
                f"turns {', '.join(f'{share:.2f}' for share in shares)}",
            )  # fmt: skip


def segment_folder(
    segmenter: Segmenter, paths: list[Path], out: Path, save: tuple[str, ...], batch_size: int, classes: int = 20
) -> float:
    """What ``talk2dino segment`` does once the model is loaded; returns seconds.

    Raises:
        Talk2DinoError: an image failed.
    """
    values = {
        "images": list(map(str, paths)), "prompts": read_prompts(class_names(classes)), "out": out, "save": save,
        "batch_size": batch_size, "overwrite": True,
    }  # fmt: skip
    options = build_options(FolderOptions, values)
    started = time.perf_counter()
    result = run_folder(options, segmenter=segmenter)
    if result.failed:
        raise Talk2DinoError(f"the folder run failed: {result.failed[0].error}")
    return time.perf_counter() - started
