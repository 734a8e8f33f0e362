"""Words by example and in other languages: every figure of the documents about them, from one command.

    python benchmarks/words.py                       # all sections; the seeds of what is trained with --seeds
    python benchmarks/words.py --only glossary,spanish --quick

All 16 class names of the drawn world are prompted at once, per-pixel argmax, no refinement, float32, on held-out scenes. What
is trained here is trained on captions alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from by_example import draw_example, measure_adapt, measure_examples, measure_find, measure_tune
from talk2dino import Segmenter
from talk2dino.evaluation.options import EvaluationOptions
from talk2dino.evaluation.runs import evaluate
from talk2dino.io.atomic import write_atomically
from talk2dino.io.markdown import markdown_table
from talk2dino.models.loading import load_parts
from talk2dino.training.text.fit import train_text
from talk2dino.training.text.options import TextTrainOptions
from talk2dino.training.text.pairs import Pairs
from talk2dino.words.glossary import benchmark_aliases, chinese_glossary
from talk2dino.world.spanish import spanish_names, write_pairs


def miou(segmenter: Segmenter, scenes: int, **options: object) -> float:
    """mIoU in % on the first ``scenes`` held-out scenes."""
    asked = EvaluationOptions(benchmark="world", limit=scenes, **options)
    return 100 * evaluate(asked, segmenter=segmenter).reports[0].metrics.miou


def measure_glossary(given: argparse.Namespace) -> dict[str, object]:
    """Chinese names through the glossary, for micro as if it read English only, against English names."""
    table = chinese_glossary()
    print(
        f"glossary: {len(table.nouns):,} Chinese words for {len(set(table.nouns.values())):,} things, {len(table.modifiers):,} "
        f"for {len(set(table.modifiers.values()))} adjectives; {len(benchmark_aliases())} other names of benchmark classes\n"
    )
    parts = load_parts("micro")
    parts.config = replace(parts.config, languages=("en",))
    only_english = Segmenter(parts, device="cpu", dtype="float32")
    micro = Segmenter.from_pretrained("micro", device="cpu", dtype="float32")
    rows = {
        "English names": miou(micro, given.scenes),
        "Chinese names through the glossary": miou(only_english, given.scenes, prompts="chinese"),
        "Chinese synonyms through the glossary": miou(only_english, given.scenes, prompts="chinese-synonyms"),
        "Chinese names, read by micro itself": miou(micro, given.scenes, prompts="chinese"),
        "Chinese synonyms, read by micro itself": miou(micro, given.scenes, prompts="chinese-synonyms"),
    }
    print(markdown_table((f"micro, {given.scenes} scenes", "mIoU in %"), [(n, f"{v:.1f}") for n, v in rows.items()]))
    return rows


def measure_spanish(given: argparse.Namespace) -> dict[str, object]:
    """Spanish names with a text tower distilled from pairs of captions, against English names."""
    pairs = Pairs(*zip(*write_pairs(given.pairs), strict=True))
    micro = Segmenter.from_pretrained("micro", device="cpu", dtype="float32")
    english = miou(micro, given.scenes)
    rows, results = [], []
    with tempfile.TemporaryDirectory() as work:
        names = Path(work) / "spanish.txt"
        write_atomically(names, "\n".join(f"{name} = {word}" for name, word in spanish_names().items()))
        for seed in range(1, given.seeds + 1):
            options = TextTrainOptions(
                languages=("es",), seed=seed, max_steps=given.steps, width=128, depth=2, heads=2, lr=1e-3, context=40
            )
            started = time.perf_counter()
            result = train_text(pairs, options, Path(work) / str(seed), model="micro", device="cpu")
            seconds = time.perf_counter() - started
            tower = Segmenter.from_pretrained("micro", text=result.folder, device="cpu", dtype="float32")
            spanish, own = miou(tower, given.scenes, synonyms=names), miou(tower, given.scenes)
            results.append((spanish, own))
            cosine = result.metrics["validation_cosine"]
            rows.append((seed, f"{spanish:.1f}", f"{own:.1f}", f"{english:.1f}", f"{cosine:.3f}", f"{seconds:.0f}"))
            print(f"seed {seed}: {spanish:.1f}", flush=True)
    columns = (
        "seed",
        "Spanish names",
        "English names, same tower",
        "English names, CLIP's",
        "cosine",
        "seconds to train",
    )
    print("\n" + markdown_table(columns, rows))
    mean = float(np.mean([spanish for spanish, _ in results]))
    print(
        f"\n{given.pairs:,} pairs of captions, {given.steps:,} steps, {given.scenes} scenes, mIoU in %; Spanish minus English: "
        f"{mean - english:+.1f} points on average, {min(s for s, _ in results) - english:+.1f} at worst (goal: within 2)"
    )
    return {
        "english": english,
        "spanish": [spanish for spanish, _ in results],
        "english in the tower": [o for _, o in results],
    }


SECTIONS: dict[str, Callable[[argparse.Namespace], dict[str, object]]] = {
    "examples": measure_examples,
    "tune": measure_tune,
    "adapt": measure_adapt,
    "find": measure_find,
    "image": draw_example,
    "glossary": measure_glossary,
    "spanish": measure_spanish,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"sections: {', '.join(SECTIONS)}")
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--unlabelled", type=int, default=600, help="adapt: scenes without labels")
    parser.add_argument("--pairs", type=int, default=12_000, help="spanish: pairs of captions")
    parser.add_argument("--steps", type=int, default=600, help="spanish: steps of the distillation")
    parser.add_argument("--quick", action="store_true", help="40 scenes, one seed, 100 steps, 120 unlabelled scenes")
    parser.add_argument("--images", type=Path, default=Path("build"), help="folder for words.png")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.quick:
        given.scenes, given.seeds, given.steps, given.unlabelled = 40, 1, 100, 120
    figures = {}
    for name in given.only.split(","):
        print(f"## {name}\n", flush=True)
        figures[name] = SECTIONS[name](given)
        print(flush=True)
    if given.json:
        write_atomically(given.json, json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
