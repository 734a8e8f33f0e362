"""Train on saved tensors in a process of its own, so that tests can kill it or start two."""

import argparse
import time
from pathlib import Path

import torch

from talk2dino.features.store import FeatureStore
from talk2dino.training.fit import train
from talk2dino.training.options import TrainOptions


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("tensors", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--strategy", default="max")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--save-every", type=int, default=1000)
    parser.add_argument("--slow", type=float, default=0.0, help="seconds to wait at each record")
    parser.add_argument("--mask", action="store_true")
    options = parser.parse_args()
    store = FeatureStore.from_tensors(*torch.load(options.tensors, weights_only=True))
    settings = TrainOptions(
        strategy=options.strategy,
        lr=options.lr,
        batch_size=options.batch,
        epochs=options.epochs,
        save_every=options.save_every,
        log_every=1,
        mask_same_image=options.mask,
    )
    train(store, settings, options.out, progress=lambda done, total, note="": time.sleep(options.slow))


if __name__ == "__main__":
    main()
