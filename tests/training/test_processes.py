import json
import os
import subprocess
import sys

import pytest
import torch
from run_configs import BASE, CONFIGS, run_all
from runs import SCRIPT, C, D, records_of, same, weights

from talk2dino.training.aligner import Aligner
from talk2dino.training.options import TrainOptions


@pytest.mark.parametrize(
    "strategy",
    ["max", *(pytest.param(name, marks=pytest.mark.long) for name in ("pairwise-max", "softmax", "sampled"))],
)
def test_two_processes_follow_one(learnable, tmp_path, strategy):
    torch.save(learnable, tmp_path / "tensors.pt")
    command = [str(SCRIPT), str(tmp_path / "tensors.pt")]
    arguments = ["--batch", "16", "--epochs", "3", "--strategy", strategy, "--lr", "0.001", "--mask"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    one = [sys.executable, *command, str(tmp_path / "one"), *arguments]
    subprocess.run(one, check=True, timeout=120, env=environment)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    launch += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    subprocess.run([*launch, *command, str(tmp_path / "two"), *arguments], check=True, timeout=240, env=environment)
    same(weights(tmp_path / "one"), weights(tmp_path / "two"), tolerance=1e-5)
    records = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    for a, b in zip(*records, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
    counts = [torch.load(tmp_path / f / "checkpoint.pt", weights_only=True)["head_counts"] for f in ("one", "two")]
    assert torch.equal(*counts)


def test_two_processes_follow_one_whatever_is_trained(learnable, tmp_path):
    """The other strategies, sides and losses; and both processes give the same reason for a loss that is not finite."""
    torch.save(learnable, tmp_path / "tensors.pt")
    run_all(tmp_path / "tensors.pt", tmp_path / "one")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    launch += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", str(SCRIPT.with_name("run_configs.py"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launch, str(tmp_path / "tensors.pt"), str(tmp_path / "two")]
    subprocess.run(command, check=True, timeout=240, env=environment)
    for name in CONFIGS:
        one, two = (
            torch.load(tmp_path / folder / name / "checkpoint.pt", weights_only=True)["aligner"]
            for folder in ("one", "two")
        )
        same(one, two, tolerance=1e-5)
        losses = [[record["loss"] for record in records_of(tmp_path / folder / name)] for folder in ("one", "two")]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)  # a constant factor does not show in Adam's steps
        moved = Aligner(TrainOptions(**BASE, **CONFIGS[name]), C, D).state_dict()
        assert any(not torch.equal(one[key], moved[key]) for key in one)
    errors = [json.loads((tmp_path / "two" / f"error{rank}.json").read_text()) for rank in range(2)]
    assert errors[0] == errors[1]
    assert "the stored images of this batch are not finite" in errors[0]
