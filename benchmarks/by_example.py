"""The sections of benchmarks/words.py about examples, tuning, adapting and finding; all on the drawn world with micro.

Scenes to measure on have seeds from 10,000,000 on, examples and corrected scenes from 40,000,000 on, unlabelled scenes from
20,000,000 on. Regions and corrected masks are the true ones.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from talk2dino import Segmenter, TextFeatures
from talk2dino.encoded import unit_patches
from talk2dino.evaluation.metrics import ConfusionMatrix, Metrics
from talk2dino.evaluation.world import BACKGROUND_CLASSES, FIRST_TEST_SEED, OBJECT_CLASSES
from talk2dino.find import ImageIndex
from talk2dino.fitting import label_patches
from talk2dino.io.markdown import markdown_table
from talk2dino.types import ImageFeatures
from talk2dino.words.adaptation import RIDGE, PatchSample, adapt
from talk2dino.words.tuning import tune
from talk2dino.world import CLASS_NAMES, render, sample_scene

NAMES = list(CLASS_NAMES)
EXAMPLES, UNLABELLED = 40_000_000, 20_000_000
HELD_OUT = {"one": True, "all": "all", "none": False}
NOTHING = ["elephant", "airplane", "piano", "keyboard", "clock", "bus", "umbrella", "zebra"]


@dataclass
class Scenes:
    """Encoded scenes with their true labels (n, H, W)."""

    features: ImageFeatures
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, chosen: Sequence[int]) -> Scenes:
        return Scenes(ImageFeatures.stack([self.features[i] for i in chosen]), self.labels[list(chosen)])


@cache
def micro() -> Segmenter:
    return Segmenter.from_pretrained("micro", device="cpu", dtype="float32")


@cache
def words() -> TextFeatures:
    return micro().encode_text(NAMES)


def threshold() -> float:
    value = micro().method.cosine_threshold
    assert value is not None
    return value


@cache
def scenes(first: int, count: int, held_out: str = "none") -> Scenes:
    """``count`` scenes with the seeds from ``first`` on."""
    return encoded(range(first, first + count), held_out)


def encoded(seeds: Iterable[int], held_out: str = "none") -> Scenes:
    drawn = [render(sample_scene(seed, held_out=HELD_OUT[held_out]), 96) for seed in seeds]
    parts = [micro().encode_image([one.image for one in drawn[i : i + 20]]) for i in range(0, len(drawn), 20)]
    return Scenes(ImageFeatures.stack(parts), np.stack([one.labels for one in drawn]))


def measure(text: TextFeatures, test: Scenes, *, refine: bool = False, background: bool = False) -> Metrics:
    """The figures of some classes of the world on scenes; others in ``text`` count as errors.

    With a background or negative classes, "background" is a class: it stands for the classes that are not prompted.
    """
    names = [name for name in NAMES if name in text.names[: text.positive]]
    rest = background or text.negative > 0
    matrix = ConfusionMatrix([*names, "background"] if rest else names)
    truth_of = np.array([names.index(n) if n in names else len(names) if rest else 255 for n in NAMES])
    for start in range(0, len(test), 50):
        chosen = range(start, min(start + 50, len(test)))
        part = ImageFeatures.stack([test.features[i] for i in chosen])
        for i, result in zip(chosen, micro().decode(part, text, refine=refine, background=background), strict=True):
            found = [names.index(n) if n in names else len(names) if n == "background" else -1 for n in result.names]
            matrix.update(np.array(found)[result.labels], truth_of[test.labels[i]])
    return matrix.metrics()


def percent(metrics: Metrics, classes: Sequence[int] | None = None) -> float:
    return 100 * (metrics.miou if classes is None else metrics.miou_of(classes))


def spread(values: Sequence[float]) -> str:
    """ "81.3 (81.2 to 81.5)" """
    mean = f"{np.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"


def measure_examples(given: argparse.Namespace) -> dict[str, object]:
    """Classes by example, alone and beside words."""
    test = scenes(FIRST_TEST_SEED, given.scenes)
    figures: dict[str, list[float]] = {"16 words": [percent(measure(words(), test))]}
    for count in (1, 5, 20):
        for draw in range(given.seeds):
            examples = by_example(count, EXAMPLES + 10_000 * draw)
            shown = {NAMES.index(name): name for name in examples.names}
            for title, chosen in {
                f"16 examples classes, {count} each": set(shown),
                f"8 words, 8 classes by {count} each": set(range(0, 16, 2)),
            }.items():
                own = [NAMES[i] for i in range(16) if i not in chosen]
                text = pick(examples, [NAMES[i] for i in sorted(chosen)])
                text = micro().encode_text(own) + text if own else text
                figures.setdefault(title, []).append(percent(measure(text, test)))
    rows = [
        (title.replace("16 examples classes,", "16 classes by example,"), spread(v)) for title, v in figures.items()
    ]
    print(markdown_table((f"micro, {len(test)} scenes, {given.seeds} draws of examples", "mIoU in %"), rows))
    return dict(figures)


def by_example(count: int, first: int) -> TextFeatures:
    """All classes from ``count`` regions each, taken from one scene after the other."""
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in NAMES}
    seed = first
    while any(len(several) < count for several in found.values()):
        scene = render(sample_scene(seed), 96)
        for label in np.unique(scene.labels):
            if len(found[NAMES[label]]) < count and (scene.labels == label).mean() > 0.02:
                found[NAMES[label]].append((scene.image, scene.labels == label))
        seed += 1
    return micro().encode_examples(found)


def pick(text: TextFeatures, names: Sequence[str]) -> TextFeatures:
    """Some of the classes."""
    rows = [text.names.index(name) for name in names]
    scale = None if text.calibration is None else text.calibration[rows]
    return replace(text, names=tuple(names), embeddings=text.embeddings[rows], calibration=scale)


def measure_tune(given: argparse.Namespace) -> dict[str, object]:
    """Corrected scenes against words alone and examples alone, on objects in held-out colours."""
    figures: dict[str, object] = {}
    for kind in ("one", "all"):
        test = scenes(FIRST_TEST_SEED, given.scenes, kind)

        def objects(text: TextFeatures, test: Scenes = test) -> float:
            return percent(measure(text, test), OBJECT_CLASSES)

        alone = objects(words())
        rows = []
        for count in (5, 20, 50):
            found: dict[str, list[float]] = {"examples": [], "tuned": [], "adapted, then tuned": []}
            for draw in range(given.seeds):
                corrected = scenes(EXAMPLES + 1000 * draw, 50, kind).only(range(count))
                labelled = [
                    label_patches(labels, features, unit_patches(micro(), features))
                    for labels, features in (
                        (corrected.labels[i].astype(int), corrected.features[i]) for i in range(count)
                    )
                ]
                regions = {
                    name: [
                        (corrected.features[i], corrected.labels[i] == k)
                        for i in range(count)
                        if (corrected.labels[i] == k).any()
                    ]
                    for k, name in enumerate(NAMES)
                }
                shown = micro().encode_examples({name: several for name, several in regions.items() if several})
                missing = [name for name in NAMES if name not in shown.names]
                found["examples"].append(objects(shown + micro().encode_text(missing) if missing else shown))
                found["tuned"].append(objects(tune(words(), labelled, threshold())[0]))
                folder = scenes(UNLABELLED + 100_000, given.unlabelled // 2, kind)
                found["adapted, then tuned"].append(objects(tune(adapted(words(), folder), labelled, threshold())[0]))
            rows.append((count, f"{alone:.1f}", *(spread(values) for values in found.values())))
            figures[f"{kind}, {count}"] = {"words": alone, **found}
        what = "one object of each scene" if kind == "one" else "every object"
        print(f"{what} in a held-out colour; mIoU of objects in %, {len(test)} scenes, {given.seeds} draws\n")
        columns = ("corrected scenes", "words", "examples", "words tuned", "words adapted, then tuned")
        print(markdown_table(columns, rows) + "\n", flush=True)
    return figures


def adapted(text: TextFeatures, unlabelled: Scenes, *, refine: bool = False) -> TextFeatures:
    sample = PatchSample(text, threshold())
    for i in range(len(unlabelled)):
        sample.add(unit_patches(micro(), unlabelled.features[i]).flatten(0, 2))
    return adapt(sample, refine=refine)


def measure_adapt(given: argparse.Namespace) -> dict[str, object]:
    """Words adapted to unlabelled scenes, and what that must not break."""
    test = scenes(FIRST_TEST_SEED, given.scenes)
    draws = [scenes(UNLABELLED + 1000 * draw, given.unlabelled) for draw in range(given.seeds)]
    rows: list[tuple[str, float, list[float]]] = []

    def row(title: str, before: float, after: list[float]) -> None:
        rows.append((title, before, after))
        print(f"{title}: {before:.1f} -> {spread(after)}", flush=True)

    fitted = [adapted(words(), draw) for draw in draws]
    plain = measure(words(), test)
    after = [measure(text, test) for text in fitted]
    row("plain masks", percent(plain), [percent(m) for m in after])
    for title, classes in (("objects", OBJECT_CLASSES), ("grounds", BACKGROUND_CLASSES)):
        row(f"plain masks, {title}", percent(plain, classes), [percent(m, classes) for m in after])
    refined = percent(measure(words(), test, refine=True))
    row("refined masks", refined, [percent(measure(text, test, refine=True)) for text in fitted])
    for_refined = [adapted(words(), draw, refine=True) for draw in draws]
    row("refined masks, adapted for them", refined, [percent(measure(text, test, refine=True)) for text in for_refined])
    true = [on_true_labels(draw) for draw in draws]
    row(
        "refined masks, the same regression on true labels",
        refined,
        [percent(measure(t, test, refine=True)) for t in true],
    )
    for count in (40, 100, 200):
        few = [adapted(words(), draw.only(range(min(count, len(draw))))) for draw in draws]
        row(f"{count} unlabelled scenes", percent(plain), [percent(measure(text, test)) for text in few])
    with_nothing = micro().encode_text([*NAMES, *NOTHING])
    row(
        "with 8 words that stand for nothing", percent(measure(with_nothing, test)),
        [percent(measure(adapted(with_nothing, draw), test)) for draw in draws],
    )  # fmt: skip
    for present in ([0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15], [0, 2, 4, 6, 9, 11, 13, 15]):
        folder = encoded(seeds_with(present, 200, UNLABELLED + 500_000))
        own = encoded(seeds_with(present, 100, FIRST_TEST_SEED + 500_000))
        text = adapted(words(), folder)
        row(
            f"half of the words absent (only {NAMES[present[0]]} ... {NAMES[present[-1]]})",
            percent(measure(words(), own), present), [percent(measure(text, own), present)],
        )  # fmt: skip
    others = [name for name in NAMES if name != "sand"]
    fifteen, negative = micro().encode_text(others), micro().encode_text(others, negative=["sand"])
    row(
        "sand not prompted, default threshold", percent(measure(fifteen, test, background=True)),
        [percent(measure(adapted(fifteen, draw), test, background=True)) for draw in draws],
    )  # fmt: skip
    row(
        "sand as a negative word", percent(measure(negative, test)),
        [percent(measure(adapted(negative, draw), test)) for draw in draws],
    )  # fmt: skip
    shown = [
        (title, f"{before:.1f}", spread(values), f"{np.mean(values) - before:+.1f}") for title, before, values in rows
    ]
    head = f"micro, {len(test)} scenes, {given.seeds} draws of {given.unlabelled} unlabelled scenes; mIoU in %"
    print("\n" + markdown_table((head, "words", "adapted", "difference"), shown))
    return {title: {"words": before, "adapted": values} for title, before, values in rows}


def on_true_labels(labelled: Scenes) -> TextFeatures:
    """The regression of :func:`adapt`, with the true share of each class in each patch in place of the nearest word."""
    patches = unit_patches(micro(), labelled.features)
    shares = (
        torch.nn.functional.one_hot(torch.from_numpy(labelled.labels).long(), len(NAMES)).permute(0, 3, 1, 2).float()
    )
    y = torch.nn.functional.adaptive_avg_pool2d(shares, patches.shape[1:3]).permute(0, 2, 3, 1).flatten(0, 2)
    x = patches.flatten(0, 2)
    weights = (y / y.sum(0)).sum(1, keepdim=True) / len(NAMES)
    vectors = torch.linalg.solve((x * weights).T @ x + RIDGE * torch.eye(x.shape[1]), (x * weights).T @ y).T
    length = vectors.norm(dim=1, keepdim=True)
    return replace(
        words(), embeddings=vectors / length, calibration=torch.cat([length, torch.zeros_like(length)], dim=1)
    )


def seeds_with(present: Sequence[int], count: int, first: int) -> list[int]:
    """Seeds of scenes that show only some of the classes."""
    found: list[int] = []
    while len(found) < count:
        scene = sample_scene(first)
        if {*scene.backgrounds, *(8 + thing.kind for thing in scene.things)} <= set(present):
            found.append(first)
        first += 1
    return found


def measure_find(given: argparse.Namespace) -> dict[str, object]:
    """How well scenes are ranked, and how long a question over 10,000 images takes."""
    test = scenes(FIRST_TEST_SEED, given.scenes)
    with tempfile.TemporaryDirectory() as work:
        from PIL import Image

        for i in range(len(test)):
            seed = FIRST_TEST_SEED + i
            Image.fromarray(render(sample_scene(seed), 96).image).save(Path(work) / f"{seed}.png")
        paths = sorted(Path(work).glob("*.png"))
        index = ImageIndex(micro(), Path(work) / "index")
        started = time.perf_counter()
        index.update(paths, batch_size=20)
        per_image = (time.perf_counter() - started) / len(paths)
        size = sum(file.stat().st_size for file in (Path(work) / "index").iterdir()) / len(paths)
        precision = []
        for number, name in enumerate(NAMES):
            found = [paths.index(one.path) for one in index.ask(micro().encode_text([name]), paths)]
            shows = np.array([(test.labels[i] == number).any() for i in found])
            ranks = np.flatnonzero(shows) + 1
            precision.append(100 * float(np.mean(np.arange(1, len(ranks) + 1) / ranks)) if len(ranks) else np.nan)
        many = Path(work) / "many"
        seconds = question_seconds(index, many, 10_000)
    rows = [
        ("mean average precision of the 16 classes in %", f"{np.nanmean(precision):.1f}"),
        ("objects, grounds", f"{np.nanmean(precision[8:]):.1f}, {np.nanmean(precision[:8]):.1f}"),
        ("encoding in ms per image", f"{1000 * per_image:.0f}"),
        ("index in KB per image", f"{size / 1000:.1f}"),
        ("a question over 10,000 images in s, words included", f"{seconds[1]:.2f}"),
        ("opening the index of 10,000 images in s", f"{seconds[0]:.2f}"),
    ]
    print(markdown_table((f"micro, {len(paths)} scenes, {torch.get_num_threads()} threads", ""), rows))
    return {"precision": precision, "seconds": seconds, "bytes": size}


def question_seconds(index: ImageIndex, folder: Path, count: int) -> tuple[float, float]:
    """Seconds to open an index of ``count`` images and to ask it; the features are those of ``index``, over and over."""
    large = ImageIndex(micro(), folder)
    features, shares = (np.concatenate([shard[i] for shard in index.shards]) for i in (0, 1))
    paths = [folder / f"{i}.png" for i in range(count)]
    for start in range(0, count, 256):
        rows = [i % len(features) for i in range(start, min(start + 256, count))]
        large.add(
            [
                (paths[start + j], "", torch.from_numpy(features[r]), torch.from_numpy(shares[r]))
                for j, r in enumerate(rows)
            ]
        )
    started = time.perf_counter()
    opened = ImageIndex(micro(), folder)
    middle = time.perf_counter()
    assert len(opened.ask(micro().encode_text(["red car"]), paths)) == count
    return middle - started, time.perf_counter() - middle


def draw_example(given: argparse.Namespace) -> dict[str, object]:
    """docs/words.png: a part without a name, pointed at in one image and found in another."""
    from PIL import Image, ImageDraw

    from talk2dino.io.atomic import save_png
    from talk2dino.io.legend import draw_grid

    folder = Path(__file__).parents[1] / "examples" / "pictures"
    box = (130, 130, 295, 212)
    shown = Image.open(folder / "harbour.png").convert("RGB")
    ImageDraw.Draw(shown).rectangle(box, outline="white", width=4)
    text = micro().encode_text(["grass", "sand", "tree", "car"])
    example = micro().encode_examples({"my part": [(folder / "harbour.png", box)]})
    tiles = [("harbour.png: the box is my part", shown)]
    for title, classes in (("beach.png: words", text), ("beach.png: words + my part", text + example)):
        result = micro().segment(folder / "beach.png", classes, refine=True)
        tiles.append((title, result.overlay(folder / "beach.png")))
    save_png(draw_grid(tiles, 3), given.images / "words.png")
    print(f"{given.images / 'words.png'}\n")
    return {}
