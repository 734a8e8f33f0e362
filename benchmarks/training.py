"""Steps per second of training, relative to a bare loop over tensors in memory, on this machine.

    python benchmarks/training.py                 # batch 128, 12 heads, D 768, C 512
    python benchmarks/training.py --images 8000 --turns 3

- Bare: forward, backward and optimizer step on one batch of float32 tensors. Nothing is read.
- Ours: `train` on a memory-mapped store of several float16 shards, with its reading, checks, records and checkpoints.
- Published: the same steps in the shape of the published loop: a data set of dictionaries (image -> features) in memory,
  read item by item by torch's DataLoader with the default collate function, without workers and with two.

The loops take turns, so that other work on the machine slows all of them. Each ratio is the median over the turns; the bare
loop is measured directly before and after.

`python benchmarks/alignment.py` prints this ratio and that of extraction.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from talk2dino.features.store import FeatureStore
from talk2dino.training.aligner import Aligner, make_optimizer
from talk2dino.training.batches import Batches
from talk2dino.training.fit import train
from talk2dino.training.options import TrainOptions

COCO_IMAGES, COCO_CAPTIONS, EPOCHS = 82_783, 414_113, 100
GOAL = 0.85  # of the bare loop


def random_store(folder: Path, images: int, shards: int, heads: int, vision_dim: int, text_dim: int) -> FeatureStore:
    """A store of random features in several shards, with five captions per image."""
    from safetensors.torch import save_file

    from talk2dino.features.manifest import Manifest, Shard, checksum

    each = images // shards
    manifest = Manifest({"name": "random"}, {}, ["heads"], heads, vision_dim, text_dim)
    for number in range(shards):
        generator = torch.Generator().manual_seed(number)
        path = folder / f"shard-{number:05d}.safetensors"
        save_file(
            {
                "heads": torch.randn(each, heads, vision_dim, generator=generator).half(),
                "captions": torch.randn(5 * each, text_dim, generator=generator).half(),
                "caption_image": torch.arange(each, dtype=torch.int32).repeat_interleave(5),
            },
            path,
        )
        manifest.shards.append(Shard(number, path.name, each, 5 * each, 0, path.stat().st_size, checksum(path)))
    manifest.complete = True
    manifest.write(folder)
    return FeatureStore.open(folder)


class BareLoop:
    """The least that training has to do: forward, backward and step on one batch in memory."""

    def __init__(self, store: FeatureStore, config: TrainOptions) -> None:
        self.batch = Batches(store, config, torch.device("cpu"))[0]
        self.aligner = Aligner(config, store.text_dim, store.shape("heads")[-1])
        self.optimizer = make_optimizer(self.aligner, config)

    def steps_per_second(self, steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            loss, _ = self.aligner(self.batch.images, self.batch.captions)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        return steps / (time.perf_counter() - started)


class PublishedShape(Dataset):
    """A caption and the features of its image from dictionaries, as in the published data set."""

    def __init__(self, store: FeatureStore) -> None:
        rows = torch.arange(store.num_images)
        self.images = {
            n: {"id": n, "features": row.clone()} for n, row in enumerate(store.gather("heads", rows).float())
        }
        captions = store.gather("captions", torch.arange(len(store.caption_image))).float()
        self.annotations = [
            {"image_id": owner, "features": row.clone()}
            for owner, row in zip(store.caption_image.tolist(), captions, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, place: int) -> dict:
        annotation = self.annotations[place]
        image = self.images[annotation["image_id"]]
        return {"image": image["features"], "annotation": annotation["features"], "image_id": annotation["image_id"]}


class PublishedLoop:
    """Forward, backward and step over a DataLoader with the default collate."""

    def __init__(
        self, data: PublishedShape, config: TrainOptions, text_dim: int, vision_dim: int, workers: int
    ) -> None:
        self.loader = DataLoader(data, batch_size=config.batch_size, shuffle=True, num_workers=workers, drop_last=True)
        self.aligner = Aligner(config, text_dim, vision_dim)
        self.optimizer = make_optimizer(self.aligner, config)

    def steps_per_second(self, steps: int) -> float:
        """Over at most one epoch. Starting the workers is not measured."""
        started, done = 0.0, -1
        for batch in self.loader:
            if done < 0:
                started = time.perf_counter()
            loss, _ = self.aligner(batch["image"], batch["annotation"])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            done += 1
            if done == steps:
                break
        return done / (time.perf_counter() - started)


def measure(options: argparse.Namespace) -> dict:
    """Measure all loops in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = random_store(
            folder, options.images, options.shards, options.heads, options.vision_dim, options.text_dim
        )
        config = TrainOptions(strategy=options.strategy, batch_size=options.batch)
        bare = BareLoop(store, config)
        data = PublishedShape(store)
        published = {
            workers: PublishedLoop(data, config, options.text_dim, options.vision_dim, workers) for workers in (0, 2)
        }
        bare.steps_per_second(20)
        rates: dict[str, list[tuple[float, float]]] = {}  # name -> (bare loop around it, its own) per turn
        before = bare.steps_per_second(options.steps // 2)

        def note(name: str, own: float) -> None:
            nonlocal before
            after = bare.steps_per_second(options.steps // 2)
            rates.setdefault(name, []).append((2 / (1 / before + 1 / after), own))
            before = after

        for turn in range(1, options.turns + 1):
            note("training", our_rate(store, config, folder / "run", turn, options.steps))
            for workers, loop in published.items():
                note(f"published_{workers}_workers", loop.steps_per_second(options.steps // 3))
    return figures_of(rates, options)


def our_rate(store: FeatureStore, config: TrainOptions, out: Path, turn: int, steps: int) -> float:
    """Steps per second of the next steps of a run."""
    clock: list[float] = []
    partial = config.model_copy(update={"max_steps": turn * steps, "log_every": 50})
    train(store, partial, out, device="cpu", progress=lambda done, total, note="": clock.append(time.perf_counter()))
    return 50 * (len(clock) - 2) / (clock[-1] - clock[1])  # the first call reports the steps of earlier turns


def figures_of(rates: dict[str, list[tuple[float, float]]], options: argparse.Namespace) -> dict:
    figures: dict = {
        "bare_steps_per_second": round(statistics.median(b for pairs in rates.values() for b, _ in pairs), 1)
    }
    for name, pairs in rates.items():
        figures[f"{name}_steps_per_second"] = round(statistics.median(own for _, own in pairs), 1)
        figures[f"{name}_ratio"] = round(statistics.median(own / bare for bare, own in pairs), 3)
        figures[f"{name}_ratio_lowest_turn"] = round(min(own / bare for bare, own in pairs), 3)
    steps = EPOCHS * (COCO_CAPTIONS // options.batch)
    figures["coco_2014_steps"] = steps
    figures["coco_2014_hours"] = round(steps / figures["training_steps_per_second"] / 3600, 2)
    figures["shape"] = (
        f"batch {options.batch}, {options.heads} heads, D {options.vision_dim}, C {options.text_dim}, {options.strategy}"
    )
    figures["machine"] = f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}"
    return figures


def show(figures: dict) -> None:
    print(f"bare loop                    {figures['bare_steps_per_second']:7.1f} steps/s   ({figures['shape']})")
    for name, title in (
        ("training", "training loop"),
        ("published_0_workers", "published shape, no workers"),
        ("published_2_workers", "published shape, 2 workers"),
    ):
        goal = f", goal {100 * GOAL:.0f} %" if name == "training" else ""
        print(f"{title:<28} {figures[f'{name}_steps_per_second']:7.1f} steps/s   {100 * figures[f'{name}_ratio']:.1f} % of "
              f"the bare loop (lowest turn {100 * figures[f'{name}_ratio_lowest_turn']:.1f} %{goal})")  # fmt: skip
    print(f"COCO 2014: {COCO_IMAGES:,} images, {COCO_CAPTIONS:,} captions, {EPOCHS} epochs = "
          f"{figures['coco_2014_steps']:,} steps: {figures['coco_2014_hours']} hours at the rate of training")  # fmt: skip
    print(figures["machine"])


def make_parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--images", type=int, default=8000)
    found.add_argument("--shards", type=int, default=8)
    found.add_argument("--heads", type=int, default=12)
    found.add_argument("--vision-dim", type=int, default=768)
    found.add_argument("--text-dim", type=int, default=512)
    found.add_argument("--batch", type=int, default=128)
    found.add_argument("--strategy", default="max")
    found.add_argument("--steps", type=int, default=300, help="steps per turn, at least 100")
    found.add_argument("--turns", type=int, default=7)
    found.add_argument("--threads", type=int, default=2)
    found.add_argument("--json", action="store_true")
    return found


def main() -> None:
    options = make_parser().parse_args()
    torch.set_num_threads(options.threads)
    figures = measure(options)
    if options.json:
        print(json.dumps(figures))
    else:
        show(figures)


if __name__ == "__main__":
    main()
