"""A folder of 640 x 480 JPEGs, from reading to writing, against the bare vision model at the same size and batch."""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from talk2dino.errors import Talk2DinoError
from talk2dino.folder import FolderOptions, run_folder
from talk2dino.models.preprocess import normalise, resize_image, to_pixels
from talk2dino.pipeline import plan_view
from talk2dino.prompts import read_prompts
from talk2dino.speed.figures import Figure, Note, Pair, Plan
from talk2dino.speed.measure import seconds
from talk2dino.speed.parts import class_names, load, photograph, write_photographs

TURNS = 3


def folder(plan: Plan) -> Iterator[Figure | Note]:
    """Every model of the plan's folders with every pair of dtype and engine."""
    for model in plan.folder_models:
        for pair in plan.pairs:
            try:
                yield from _one(plan, model, pair)
            except Talk2DinoError as error:
                yield Note("folder", f"{model} with {pair}: {error}", failed=True)


def _one(plan: Plan, model: str, pair: Pair) -> Iterator[Figure]:
    batch = max(plan.batches)
    segmenter = load(model, device=plan.device, dtype=pair.dtype, engine=pair.engine)
    seen = plan_view((480, 640), "whole", segmenter.method).seen
    pixels = normalise(torch.stack([to_pixels(resize_image(photograph(480, 640), seen))] * batch).to(plan.device))

    def bare(count: int) -> None:
        with torch.inference_mode():
            for _ in range(-(-count // batch)):
                segmenter.towers.run_vision(pixels)

    bare(batch)
    rate = batch / seconds(functools.partial(bare, batch), plan.device)
    count = min(1000, max(4 * batch, round(plan.options.folder_seconds * rate)))
    count = -(-count // batch) * batch
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "pictures").mkdir()
        paths = write_photographs(Path(name) / "pictures", count)
        segment_folder(segmenter, paths[:batch], Path(name) / "warm", ["palette", "overlay"], batch)
        for kinds in (["palette"], ["palette", "overlay"]):
            # Overlays take long.
            some = paths if len(kinds) == 1 else paths[: max(batch, len(paths) // 4 // batch * batch)]
            run = functools.partial(segment_folder, segmenter, some, kinds=kinds, batch_size=batch)
            shares, rates = _turns(
                run, functools.partial(bare, len(some)), len(some), Path(name) / kinds[-1], plan.device
            )
            what = "labels written" if len(kinds) == 1 else "labels and overlays written"
            goal = (">=", 0.85) if len(kinds) == 1 and model in ("micro", "random-vitb") else None
            yield Figure(
                "folder", f"pictures a second / bare vision model's, {what}", statistics.median(shares), "share", goal,
                {"model": model} | pair.settings | {"batch": batch},
                f"{statistics.median(rates):.2f} pictures/s, {len(some)} pictures, "
                f"turns {', '.join(f'{s:.2f}' for s in shares)}",
            )  # fmt: skip


def _turns(
    run: Callable[..., float], bare: Callable[[], None], count: int, out: Path, device: torch.device
) -> tuple[list[float], list[float]]:
    """Shares and rates; the bare vision model runs before and after each folder."""
    shares, rates = [], []
    for turn in range(TURNS):
        before = seconds(bare, device)
        spent = run(out=out / str(turn))
        after = seconds(bare, device)
        shares.append((before + after) / 2 / spent)
        rates.append(count / spent)
    return shares, rates


def segment_folder(
    segmenter: Any, paths: list[Path], out: Path, kinds: list[str], batch_size: int, classes: int = 20
) -> float:
    """What ``talk2dino segment`` does with pictures once the model is loaded; seconds.

    Raises:
        Talk2DinoError: a picture failed.
    """
    options = FolderOptions(
        images=tuple(map(str, paths)), prompts=read_prompts(class_names(classes)), out=out, save=kinds,
        batch_size=batch_size, overwrite=True,
    )  # fmt: skip
    started = time.perf_counter()
    result = run_folder(options, segmenter=segmenter)
    if result.failed:
        raise Talk2DinoError(f"the folder run failed: {result.failed[0].error}")
    return time.perf_counter() - started
