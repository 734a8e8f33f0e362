"""Train with several configurations in one group of processes, so that a test pays for starting them once."""

import json
import sys
from pathlib import Path

import torch

from talk2dino.errors import DataError
from talk2dino.features.store import FeatureStore
from talk2dino.training.fit import train
from talk2dino.training.options import TrainOptions
from talk2dino.training.processes import joined_processes

BASE = {"lr": 1e-3, "batch_size": 16, "epochs": 2, "log_every": 1}
CONFIGS = {
    "mean": {"strategy": "mean"},
    "cls": {"strategy": "cls"},
    "learned temperature": {"learned_temperature": True},
    "published scale": {"published_scale": True},
    "vision": {"side": "vision", "strategy": "pairwise-max"},
    "partial batch": {"keep_partial_batch": True},
    "both": {"side": "both", "shared_dim": 11, "mask_same_image": True},
}


def run_all(tensors: Path, out: Path) -> None:
    store = FeatureStore.from_tensors(*torch.load(tensors, weights_only=True))
    for name, settings in CONFIGS.items():
        train(store, TrainOptions(**BASE, **settings), out / name)


def run_damaged(tensors: Path, out: Path, rank: int) -> None:
    """One image is not finite, which only one process reads; each writes down its error."""
    features, captions, owner = torch.load(tensors, weights_only=True)
    features["heads"][0, 0, 0] = float("nan")
    store = FeatureStore.from_tensors(features, captions, owner)
    try:
        train(store, TrainOptions(**BASE), out / "damaged")
    except DataError as error:
        (out / f"error{rank}.json").write_text(json.dumps(str(error)))


if __name__ == "__main__":
    with joined_processes(torch.device("cpu")) as processes:
        run_all(Path(sys.argv[1]), Path(sys.argv[2]))
        run_damaged(Path(sys.argv[1]), Path(sys.argv[2]), processes.rank)
        processes.wait()  # or one may take the group away from the other
