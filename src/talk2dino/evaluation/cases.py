"""Images of a benchmark as a grid: image, truth, predictions in the benchmark's colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from talk2dino.errors import InputError
from talk2dino.evaluation.datasets import Benchmark, Sample
from talk2dino.evaluation.journal import ImageRecord, Run
from talk2dino.evaluation.matching import cluster_classes, final_records, matched_over_benchmark
from talk2dino.evaluation.metrics import IGNORE
from talk2dino.evaluation.options import EvaluationOptions
from talk2dino.evaluation.protocol import Predictor, open_samples
from talk2dino.io.atomic import save_png
from talk2dino.io.legend import draw_grid, make_legend, merge_legends
from talk2dino.io.settings import build_options, differences
from talk2dino.segmenter import Segmenter

_IGNORED = (232, 232, 232)


def draw_cases(run: Run, predict: Predictor, folder: Path) -> bool:
    """Write images.png with the worst and the best cases of a run; False if no image has a figure."""
    matrix = run.matrix
    if matched_over_benchmark(run.config):
        predict.classes = cluster_classes(matrix)
    by_name = {sample.name: sample for sample in open_samples(predict.options, predict.benchmark)}
    rows: list[CaseRow] = [
        (f"{kind}: {record.name}", by_name[record.name], {f"prediction, mIoU {100 * (record.miou or 0):.1f}": predict})
        for kind, record in extreme_cases(final_records(run.records, matrix, run.config))
        if record.name in by_name
    ]
    if rows:
        save_png(draw_rows(predict.benchmark, rows), folder / "images.png")
    return bool(rows)


def predictor_of(run: Run, *, data: Path | None = None, device: str | None = None) -> Predictor:
    """What labels further images of a run that was made earlier or elsewhere, from its configuration.

    Raises:
        Talk2DinoError: the data (``data``, or where they were) or the model are missing, or others than those of the run.
    """
    config = run.config
    values = {name: config[name] for name in EvaluationOptions.model_fields if name in config}
    made_on = config.get("run", {})
    options = build_options(EvaluationOptions, values | {
        "model": made_on.get("model", config["model"]), "data": data or made_on.get("data"), "device": device or "auto",
        "matching": config.get("matched") or "benchmark",
        "method_options": {k: v for k, v in config["method_options"].items() if k != "matching"},
    })  # fmt: skip
    (benchmark,) = options.benchmarks
    samples = open_samples(options, benchmark)
    segmenter = Segmenter.from_pretrained(
        options.model, projection=options.projection, text=options.text, translate=options.translate,
        device=options.device, dtype=options.dtype,
    )  # fmt: skip
    predict = Predictor(segmenter, benchmark, options)
    now = predict.config(samples)
    if other := differences(
        {name: config.get(name) for name in now}, now, ignore=("run", "projection", "text", "synonyms")
    ):
        raise InputError(f"the model or the data are not those of the run ({'; '.join(other[:4])})")
    return predict


def extreme_cases(records: Sequence[ImageRecord], count: int = 3) -> list[tuple[str, ImageRecord]]:
    """The images with the lowest and the highest mIoU, as ("worst" or "best", record)."""
    scored = sorted((r for r in records if r.miou is not None), key=lambda r: (r.miou, r.name))
    low = min(count, len(scored) // 2)  # the better half of a few images is not "worst"
    worst, best = scored[:low], scored[max(low, len(scored) - count) :][::-1]
    return [("worst", r) for r in worst] + [("best", r) for r in best]


#: One row of a grid: its title, an image, and what labels it, by the title of the prediction.
CaseRow = tuple[str, Sample, Mapping[str, Predictor]]


def draw_rows(benchmark: Benchmark, rows: Sequence[CaseRow]) -> Image.Image:
    """Each row: the image, its truth and the predictions; one legend of the classes in them for the whole grid."""
    tiles, legends = [], []
    colours = np.asarray(benchmark.palette)
    for title, sample, predictions in rows:
        image, truth = sample.load()
        labels = {"truth": truth, **{name: predict([(image, truth)])[0] for name, predict in predictions.items()}}
        tiles.append((title, enlarge(Image.fromarray(image))))
        for name, one in labels.items():
            tiles.append((name, enlarge(paint_labels(one, benchmark.palette), smooth=False)))
            legends.append(make_legend(one, benchmark.names, colours))
    legend = replace(merge_legends(legends), absent=())
    return draw_grid(tiles, columns=2 + len(rows[0][2]), legend=legend)


def paint_labels(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> Image.Image:
    """(H, W) class indices in the benchmark's colours; ignored and unmatched pixels are light grey."""
    colours = np.array([*palette, _IGNORED], dtype=np.uint8)
    nothing = (labels == IGNORE) | (labels < 0)
    return Image.fromarray(colours[np.where(nothing, len(palette), labels)])


def enlarge(image: Image.Image, smooth: bool = True, longer: int = 320) -> Image.Image:
    """A small image at a whole multiple of its size, about ``longer`` pixels on its longer side."""
    factor = max(1, round(longer / max(image.size)))
    resample = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return image.resize((image.width * factor, image.height * factor), resample)
