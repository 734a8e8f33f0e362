"""The method's claims on the drawn world: each variant trained with several seeds, mean and spread of mIoU.

    python benchmarks/claims.py --out build/claims

Every psi is trained as recipes/micro trains the embedded one (micro's frozen backbones, captions alone, Adam with lr 1e-3
and a cosine schedule, batch 128, 3,000 steps) on 5,000 training scenes (seeds 0 to 4,999). What is compared:

- every head strategy of ``talk2dino.stages.heads``;
- an MLP against a linear projection, on the text side, the vision side or both, for the published rule (max) and for
  pairwise-max;
- no background cleaning, the published code's and the paper's, on scenes where only the objects are named and everything
  else is background. The threshold is tuned for each psi and each cleaning on 150 other scenes (seeds from 5,000,000).

Figures are mIoU on 300 held-out scenes (seeds from 10,000,000), which the backbone encodes once: all class names asked at
once, argmax per pixel, no refinement, float32. What was finished is kept: a second call goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import io
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from talk2dino import Segmenter
from talk2dino.captions import CaptionSource, Record, Skipped, make_record
from talk2dino.evaluation.metrics import ConfusionMatrix, Metrics
from talk2dino.evaluation.report import versions
from talk2dino.evaluation.world import BACKGROUND_CLASSES, OBJECT_CLASSES, held_out_seeds
from talk2dino.features.extraction import extract
from talk2dino.features.options import FEATURES, ExtractOptions
from talk2dino.features.store import FeatureStore
from talk2dino.io.atomic import atomic_path, write_atomically
from talk2dino.models.loading import Parts, load_parts
from talk2dino.stages.heads import STRATEGIES
from talk2dino.training.fit import TrainResult, train
from talk2dino.training.options import TrainOptions
from talk2dino.types import ImageFeatures
from talk2dino.world import BACKGROUNDS, CLASS_NAMES, OBJECTS, render, sample_scene, write_captions

TUNING_SEEDS = range(5_000_000, 5_000_150)
#: Strategies whose psi is also trained linear and on the other sides, and used with a background.
FOLLOWED = ("max", "pairwise-max")
SIDES = ("text", "vision", "both")
#: How a background is found: cleaning in no variant, in the published code's, in the paper's.
CLEANINGS = ("none", "published", "paper")
PUBLISHED = "max/text/mlp"
_INK = "#18181b"


@dataclass(frozen=True)
class Variant:
    """One way to train; ``linear`` takes the hidden layer away."""

    strategy: str
    side: str = "text"
    linear: bool = False

    @property
    def name(self) -> str:
        return f"{self.strategy}/{self.side}/{'linear' if self.linear else 'mlp'}"

    @property
    def backgrounds(self) -> bool:
        """Whether it is also measured with a background class."""
        return self.strategy in FOLLOWED and self.side == "text" and not self.linear

    def config(self, seed: int, steps: int) -> TrainOptions:
        return TrainOptions(
            strategy=self.strategy, side=self.side, depth=1 if self.linear else 2, optimizer="adam", lr=1e-3,
            schedule="cosine", batch_size=128, max_steps=steps, save_every=steps, log_every=200, seed=seed,
        )  # fmt: skip


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        *(Variant(strategy) for strategy in STRATEGIES),
        *(Variant(strategy, side, linear) for strategy in FOLLOWED for side in SIDES for linear in (False, True)),
    )
}


class WorldScenes(CaptionSource):
    """Drawn scenes with the captions that belong to them, as a caption source."""

    def __init__(self, seeds: range) -> None:
        self._seeds = seeds
        self.description = {"kind": "world", "first": seeds[0], "records": len(seeds)}

    def __len__(self) -> int:
        return len(self._seeds)

    def records(self, wanted: Callable[[int], bool] = lambda number: True) -> Iterator[tuple[int, Record | Skipped]]:
        for number, seed in enumerate(self._seeds):
            if wanted(number):
                scene = sample_scene(seed)
                drawn = render(scene)
                yield number, make_record(str(seed), write_captions(scene, drawn), functools.partial(png, drawn.image))


def png(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 to a PNG file."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


@dataclass(frozen=True)
class EncodedScenes:
    """Scenes that went through the backbone: features in parts of at most 50 scenes, and (H, W) labels of each scene."""

    features: list[ImageFeatures]
    labels: list[np.ndarray]

    @classmethod
    def of(cls, segmenter: Segmenter, seeds: Iterable[int]) -> EncodedScenes:
        drawn = [render(sample_scene(seed)) for seed in seeds]
        parts = [drawn[start : start + 50] for start in range(0, len(drawn), 50)]
        encoded = [segmenter.encode_image([d.image for d in part]) for part in parts]
        # Patches of the frozen backbone, the same for every psi: without the fingerprint of one of them.
        return cls([replace(features, space="") for features in encoded], [d.labels for d in drawn])

    def object_labels(self) -> list[np.ndarray]:
        """(H, W) each: 0 for every surface, 1 + i for object i."""
        return [np.maximum(labels.astype(int) - (len(BACKGROUNDS) - 1), 0) for labels in self.labels]


class Bench:
    """The backbone, the store and the scenes, each made when it is first needed."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.parts = load_parts("micro")

    @functools.cached_property
    def store(self) -> FeatureStore:
        folder = self.options.out / f"store-{self.options.train_scenes}"
        started = time.time()
        options = ExtractOptions(
            out=folder, model="micro", device="cpu", dtype="float32", features=FEATURES, batch_size=50,
            records_per_shard=1000, workers=1,
        )  # fmt: skip
        manifest = extract(options, source=WorldScenes(range(self.options.train_scenes)))
        tell(f"features of {manifest.images} training scenes: {time.time() - started:.0f} s")
        return FeatureStore.open(folder)

    def segmenter(self, result: TrainResult | None = None, cleaning: str = "published") -> Segmenter:
        projection, vision_projection = (result.projection, result.vision_projection) if result else (None, None)
        config = replace(self.parts.config, variant="paper" if cleaning == "paper" else "published")
        parts = Parts(self.parts.vision, self.parts.text, projection, config, vision_projection=vision_projection)
        return Segmenter(parts, device="cpu", dtype="float32")

    @functools.cached_property
    def test(self) -> EncodedScenes:
        return EncodedScenes.of(self.segmenter(), held_out_seeds(self.options.scenes))

    @functools.cached_property
    def tuning(self) -> EncodedScenes:
        return EncodedScenes.of(self.segmenter(), TUNING_SEEDS)

    def identity(self, variant: Variant, seed: int) -> dict[str, Any]:
        """What decides a result; a kept result counts only when it agrees."""
        config = variant.config(seed, self.options.steps).model_dump()
        return {**config, "train_scenes": self.options.train_scenes, "scenes": self.options.scenes}

    def measure(self, variant: Variant, seed: int) -> dict[str, Any]:
        """Train one psi and measure it; shares from 0 to 1."""
        store = self.store
        started = time.time()
        with tempfile.TemporaryDirectory() as folder:
            result = train(store, variant.config(seed, self.options.steps), folder, device="cpu")
        trained = time.time() - started
        metrics = label_world(self.segmenter(result), self.test)
        record = {
            "miou": metrics.miou,
            "surfaces": metrics.miou_of(BACKGROUND_CLASSES),
            "objects": metrics.miou_of(OBJECT_CLASSES),
            "loss": result.metrics["loss"],
            "training_seconds": round(trained, 1),
        }
        if variant.backgrounds:
            record["background"] = {
                cleaning: find_background(self.segmenter(result, cleaning), cleaning, self.tuning, self.test)
                for cleaning in CLEANINGS
            }
        return record

    def kept(self, variant: Variant, seed: int) -> dict[str, Any] | None:
        file = self.file(variant, seed)
        if not file.is_file():
            return None
        content = json.loads(file.read_text(encoding="utf-8"))
        return content["result"] if content["identity"] == self.identity(variant, seed) else None

    def keep(self, variant: Variant, seed: int, result: dict[str, Any]) -> None:
        content = {"variant": variant.name, "identity": self.identity(variant, seed), "result": result}
        write_atomically(self.file(variant, seed), json.dumps(content, indent=1) + "\n")

    def file(self, variant: Variant, seed: int) -> Path:
        return self.options.out / "results" / f"{variant.name.replace('/', '-')}-seed{seed}.json"


def label_world(segmenter: Segmenter, scenes: EncodedScenes) -> Metrics:
    """All 16 class names, every pixel one of them."""
    text = segmenter.encode_text(list(CLASS_NAMES))
    matrix = ConfusionMatrix(CLASS_NAMES)
    truths = iter(scenes.labels)
    for part in scenes.features:
        for segmentation in segmenter.decode(part, text):
            matrix.update(segmentation.labels, next(truths))
    return matrix.metrics()


def object_scores(
    segmenter: Segmenter, cleaning: str, scenes: EncodedScenes
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each scene: best score (H, W), its object from 1 on (H, W), truth (H, W) with 0 for background."""
    text = segmenter.encode_text([concept.name for concept in OBJECTS])
    truths = iter(scenes.object_labels())
    for part in scenes.features:
        for segmentation in segmenter.decode(part, text, clean=cleaning != "none", return_scores=True):
            scores = segmentation.scores
            assert scores is not None
            yield scores.max(0), scores.argmax(0) + 1, next(truths)


def find_background(
    segmenter: Segmenter, cleaning: str, tuning: EncodedScenes, test: EncodedScenes
) -> dict[str, float]:
    """Tune the threshold on some scenes, use it on others; mIoU over background and objects.

    The candidates are the 2nd, 4th ... 98th percentile of the best scores, whatever the scale of these is.
    """
    names = ["background", *(concept.name for concept in OBJECTS)]
    seen = list(object_scores(segmenter, cleaning, tuning))
    grid = np.percentile(np.stack([best for best, _, _ in seen]), np.arange(2, 99, 2))
    matrices = [ConfusionMatrix(names) for _ in grid]
    for best, winner, truth in seen:
        for matrix, threshold in zip(matrices, grid, strict=True):
            matrix.update(np.where(best > threshold, winner, 0), truth)
    tuned = [matrix.metrics().miou for matrix in matrices]
    place = int(np.argmax(tuned))
    matrix = ConfusionMatrix(names)
    for best, winner, truth in object_scores(segmenter, cleaning, test):
        matrix.update(np.where(best > grid[place], winner, 0), truth)
    metrics = matrix.metrics()
    return {
        "threshold": float(grid[place]),
        "tuned_miou": tuned[place],
        "miou": metrics.miou,
        "background": float(metrics.iou[0]),
        "objects": metrics.miou_of(range(1, len(names))),
    }


@dataclass(frozen=True)
class Row:
    """One line of a table and one bar: figures a seed, in percent."""

    title: str
    values: list[float]
    published: bool
    further: tuple[list[float], ...]

    @property
    def mean(self) -> float:
        return statistics.mean(self.values)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds (n - 1); 0 for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


@dataclass(frozen=True)
class Section:
    title: str
    further: tuple[str, ...]
    rows: list[Row]


def make_sections(results: dict[str, list[dict[str, Any]]]) -> list[Section]:
    """The results (variant -> one a seed) as tables; the published choice is marked."""

    def row(title: str, name: str, pick: Callable[[dict], dict] = lambda r: r, keys=("surfaces", "objects")) -> Row:
        picked = [pick(result) for result in results[name]]
        columns = [[100 * figures[key] for figures in picked] for key in ("miou", *keys)]
        return Row(title, columns[0], name == PUBLISHED, tuple(columns[1:]))

    strategies = [row(s, Variant(s).name) for s in STRATEGIES if Variant(s).name in results]
    sections = [Section("Head strategy (MLP on the text side)", ("surfaces", "objects"), strategies)]
    for strategy in FOLLOWED:
        variants = [Variant(strategy, side, linear) for side in SIDES for linear in (False, True)]
        rows = [
            row(f"{'linear' if v.linear else 'MLP'}, {v.side} side{'s' * (v.side == 'both')}", v.name)
            for v in variants
            if v.name in results
        ]
        sections.append(Section(f"Mapping and mapped side ({strategy})", ("surfaces", "objects"), rows))
    named = {"none": "no cleaning", "published": "published code", "paper": "paper's formula"}
    rows = []
    for strategy in FOLLOWED:
        name = Variant(strategy).name
        for cleaning in CLEANINGS if name in results else ():
            one = row(f"{strategy}, {named[cleaning]}", name, lambda r, c=cleaning: r["background"][c], ("background", "objects"))  # type: ignore[misc]  # fmt: skip
            rows.append(replace(one, published=one.published and cleaning == "published"))
    sections.append(Section("Background cleaning (objects and background)", ("background", "objects"), rows))
    return [section for section in sections if section.rows]


def markdown(sections: list[Section]) -> str:
    lines = []
    for section in sections:
        lines += [f"| {section.title} | mIoU | spread | {' | '.join(section.further)} | seeds |"]
        lines += ["| --- |" + " ---: |" * (3 + len(section.further))]
        for row in section.rows:
            title = f"**{row.title}**" if row.published else row.title
            further = " | ".join(f"{statistics.mean(values):.1f}" for values in row.further)
            lines += [f"| {title} | {row.mean:.1f} | {row.spread:.1f} | {further} | {len(row.values)} |"]
        lines += [""]
    return "\n".join(lines)


def draw(sections: list[Section], path: Path) -> None:
    """Horizontal bars with the spread as error bars and a dot a seed; the published choice in another colour."""
    from matplotlib.figure import Figure

    counts = [len(section.rows) for section in sections]
    figure = Figure(figsize=(8, 0.27 * sum(counts) + 0.6 * len(sections) + 0.4), layout="constrained")
    axes = figure.subplots(len(sections), 1, squeeze=False, gridspec_kw={"height_ratios": [n + 0.4 for n in counts]})
    for axis, section in zip(axes[:, 0], sections, strict=True):
        places = np.arange(len(section.rows))
        means = [row.mean for row in section.rows]
        axis.barh(places, means, color=["#e8956a" if row.published else "#7fb3d5" for row in section.rows], height=0.74)
        error = {"ecolor": _INK, "elinewidth": 1.2, "capsize": 3}
        axis.errorbar(means, places, xerr=[row.spread for row in section.rows], fmt="none", **error)
        for place, row in enumerate(section.rows):
            axis.plot(row.values, [place] * len(row.values), ".", color=_INK, markersize=4, alpha=0.6)
            end = max(row.mean + row.spread, *row.values)
            text = f"{row.mean:.1f}" + (f" ± {row.spread:.1f}" if len(row.values) > 1 else "")
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
            axis.text(end + 1.5, place, text, va="center", fontsize=8.5, color=_INK, bbox=box)
        axis.set_yticks(places, [row.title for row in section.rows], fontsize=9)
        axis.set_ylim(len(section.rows) - 0.45, -0.55)
        axis.set_xlim(0, 100)
        axis.set_title(section.title, loc="left", fontsize=10, fontweight="bold")
        axis.grid(axis="x", color="#e4e4e7")
        axis.set_axisbelow(True)
        axis.tick_params(left=False, labelsize=9)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    figure.supxlabel("mIoU in % on held-out scenes: mean, standard deviation, each seed (dots). Orange: as published", fontsize=9)  # fmt: skip
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="psis of each variant, with seeds 1, 2, ...")
    parser.add_argument("--scenes", type=int, default=300, help="held-out scenes")
    parser.add_argument("--train-scenes", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--only", help=f"patterns of variants with commas between, such as 'max/*,*/linear'; all: {', '.join(VARIANTS)}")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("build/claims"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    patterns = (options.only or "*").split(",")
    chosen = [v for v in VARIANTS.values() if any(fnmatch.fnmatch(v.name, pattern.strip()) for pattern in patterns)]
    if not chosen:
        parser.error(f"--only {options.only} fits no variant")

    started, bench = time.time(), Bench(options)
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in range(1, options.seeds + 1):  # one seed of everything first: an unfinished run has every bar
        for variant in chosen:
            result = bench.kept(variant, seed)
            if result is None:
                result = bench.measure(variant, seed)
                bench.keep(variant, seed, result)
                took = f"{result['training_seconds']:.0f} s of training"
                tell(f"{variant.name}, seed {seed}: mIoU {100 * result['miou']:.1f} ({took})")
            results.setdefault(variant.name, []).append(result)

    sections = make_sections(results)
    table = markdown(sections)
    write_atomically(options.out / "claims.json", json.dumps(results, indent=1) + "\n")
    write_atomically(options.out / "claims.md", table)
    draw(sections, options.out / "claims.png")
    print(table)
    print(f"{options.scenes} scenes; {time.time() - started:.0f} s with {options.threads} threads")
    print(f"{platform.processor() or platform.machine()}, {versions()}")


if __name__ == "__main__":
    main()
