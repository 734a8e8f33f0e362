"""Steps a second of the training loop, as a share of a bare loop over tensors already in memory, on this machine.

    python benchmarks/training.py                 # batch 128, 12 heads, D 768, C 512
    python benchmarks/training.py --pictures 8000 --seconds 20

Bare: forward, backward and optimizer step on one batch of float32 tensors, nothing read. Ours: `fit` itself on a
memory-mapped store of several float16 shards, with its reading, checks, records and checkpoints. The two take turns, so
that another job on the machine slows both. The ratio printed last is the median over the turns.
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

from talk2dino.training.aligner import Aligner
from talk2dino.training.batches import Batches
from talk2dino.training.config import FitConfig
from talk2dino.training.fit import fit, make_optimizer
from talk2dino.training.store import FeatureStore

COCO_IMAGES, COCO_CAPTIONS, EPOCHS = 82_783, 414_113, 100


def random_store(folder: Path, pictures: int, shards: int, heads: int, vision_dim: int, text_dim: int) -> FeatureStore:
    """A store of random features in several shards, five captions a picture."""
    from safetensors.torch import save_file

    from talk2dino.training.manifest import Manifest, Shard, checksum

    each = pictures // shards
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
    manifest.write(folder)
    return FeatureStore.open(folder)


class BareLoop:
    """The least that training can be: one batch in memory, forward, backward, step."""

    def __init__(self, store: FeatureStore, config: FitConfig) -> None:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=8000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--vision-dim", type=int, default=768)
    parser.add_argument("--text-dim", type=int, default=512)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--strategy", default="max")
    parser.add_argument("--steps", type=int, default=300, help="steps a turn")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = random_store(
            folder, options.pictures, options.shards, options.heads, options.vision_dim, options.text_dim
        )
        config = FitConfig(strategy=options.strategy, batch_size=options.batch)
        bare = BareLoop(store, config)
        bare.steps_per_second(20)
        pairs = []
        for turn in range(1, options.turns + 1):
            before = bare.steps_per_second(options.steps // 2)
            started = time.perf_counter()
            partial = config.model_copy(update={"max_steps": turn * options.steps, "log_every": 50})
            clock: list[float] = []
            fit(store, partial, folder / "run", device="cpu", watch=lambda _, c=clock: c.append(time.perf_counter()))
            whole = options.steps / (time.perf_counter() - started)
            ours = 50 * (len(clock) - 1) / (clock[-1] - clock[0])
            after = bare.steps_per_second(options.steps // 2)
            pairs.append((2 / (1 / before + 1 / after), ours, whole))

    bare_rate, ours_rate = statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)
    ratio = statistics.median(p[1] / p[0] for p in pairs)
    coco_steps = EPOCHS * (COCO_CAPTIONS // options.batch)
    figures = {
        "bare_steps_per_second": round(bare_rate, 1),
        "training_steps_per_second": round(ours_rate, 1),
        "ratio": round(ratio, 3),
        "ratio_lowest_turn": round(min(p[1] / p[0] for p in pairs), 3),
        "ratio_with_start_and_report": round(statistics.median(p[2] / p[0] for p in pairs), 3),
        "coco_2014_hours": round(coco_steps / ours_rate / 3600, 2),
        "machine": f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}",
    }
    if options.json:
        print(json.dumps(figures))
        return
    print(f"bare loop        {bare_rate:7.1f} steps/s   (batch {options.batch}, {options.heads} heads, "
          f"D {options.vision_dim}, C {options.text_dim}, {options.strategy})")  # fmt: skip
    print(f"training loop    {ours_rate:7.1f} steps/s   {100 * ratio:.1f} % of the bare loop "
          f"(lowest turn {100 * figures['ratio_lowest_turn']:.1f} %)")  # fmt: skip
    print(f"COCO 2014        {COCO_IMAGES:,} pictures, {COCO_CAPTIONS:,} captions, {EPOCHS} epochs = {coco_steps:,} "
          f"steps: {figures['coco_2014_hours']} hours at that rate")  # fmt: skip
    print(figures["machine"])


if __name__ == "__main__":
    main()
