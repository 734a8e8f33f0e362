"""What the tests of training share: fast settings, and how two runs are compared."""

import json
from pathlib import Path

import torch

from talk2dino.models.projection import load_projection

C, D, M = 7, 13, 3  # sizes of the features in tests/training/conftest.py
FAST = {"batch_size": 16, "epochs": 4, "lr": 1e-2, "log_every": 3}
SCRIPT = Path(__file__).with_name("run_fit.py")


def weights(folder):
    return {name: value.clone() for name, value in load_projection(folder).state_dict().items()}


def same(a, b, tolerance=0.0):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=tolerance)


def records_of(folder):
    """metrics.jsonl as it is, less the rate, which no two runs share."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "steps_per_second"} for line in lines]
