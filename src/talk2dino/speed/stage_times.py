"""Each stage by itself, for one image at the model's size."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from talk2dino.io.images import read_image
from talk2dino.models.preprocess import normalise, resize_image, to_pixels
from talk2dino.pipeline import plan_view
from talk2dino.segmenter import Segmenter
from talk2dino.speed.clocks import take_turns
from talk2dino.speed.figures import Figure, Note
from talk2dino.speed.plan import Pair, Plan
from talk2dino.speed.workload import class_names, measure_each, photograph, write_photographs
from talk2dino.stages.background import clean_background
from talk2dino.stages.refine import refine
from talk2dino.stages.similarity import cosine_similarity
from talk2dino.stages.upsample import Resize, label_pixels, upsample
from talk2dino.stages.windows import average_windows


def stage_times(plan: Plan) -> Iterator[Figure | Note]:
    """Milliseconds of each stage, for every pair of dtype and engine."""
    return measure_each(plan, "stages", [plan.options.model], _one)


def _one(plan: Plan, pair: Pair, segmenter: Segmenter) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        works = _works(segmenter, class_names(plan.options.classes), Path(folder))
        times = take_turns(works, max(5, plan.options.turns), plan.device)
    for name, values in times.items():
        value = 1000 * statistics.median(values)
        yield Figure("stages", name, value, "ms", None, pair.settings | {"batch": 1})


def _works(segmenter: Segmenter, names: list[str], folder: Path) -> dict[str, Callable[[], object]]:
    """The calls to time, by name; their inputs are computed here."""
    size = segmenter.method.size
    array = photograph(size, size)
    (jpeg,) = write_photographs(folder, 1)
    image, text = segmenter.encode_image(array), segmenter.encode_text(names)
    pixels, attention = image.pixels, image.attention
    assert pixels is not None
    assert attention is not None
    inputs = normalise(pixels)
    psi = segmenter.towers.vision_projection
    patches = image.patches if psi is None else psi(image.patches.float())
    scores = cosine_similarity(patches, text.embeddings)
    seen = (image.grid[0] * segmenter.vision.patch_size, image.grid[1] * segmenter.vision.patch_size)
    large = upsample(scores, seen)
    larger = photograph(480 * size // 448, 640 * size // 448)
    seen_larger = plan_view(larger.shape[:2], "whole", segmenter.method).seen
    windows = segmenter.encode_image(larger, mode="slide")
    boxes, canvas = windows.boxes, windows.canvas
    assert boxes is not None
    assert canvas is not None
    maps = [scores.new_zeros(len(names), bottom - top, right - left) for top, left, bottom, right in boxes]
    result = segmenter.segment(array, names)
    return {
        "JPEG of 640 x 480 to RGB": lambda: read_image(jpeg),
        "resize an image to what the model sees": lambda: to_pixels(resize_image(larger, seen_larger)),
        "vision model": lambda: segmenter.towers.run_vision(inputs),
        f"slide mode: {len(maps)} windows, cut and through the vision model": lambda: segmenter.encode_image(
            larger, mode="slide"
        ),
        "slide mode: averaging the windows' maps": lambda: average_windows(maps, boxes, canvas),
        "prompts (cached) and psi": lambda: segmenter.encode_text(names),
        "similarity": lambda: cosine_similarity(patches, text.embeddings),
        "background cleaning": lambda: clean_background(
            scores, patches, attention, text.embeddings, variant=segmenter.config.variant
        ),
        "refinement": lambda: refine(large, pixels),
        "upsampling and argmax": lambda: label_pixels(scores[0], [Resize(*seen, True)], None, 0),
        "palette PNG": lambda: result.save(folder / "labels.png"),
    }
