import errno
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from run_configs import BASE, CONFIGS, run_all

from talk2dino.errors import CheckpointError, DataError, InputError, MissingExtraError, OutputError
from talk2dino.features.store import FeatureStore
from talk2dino.io.lock import folder_lock
from talk2dino.models.projection import load_projection
from talk2dino.stages.heads import STRATEGIES
from talk2dino.training.aligner import Aligner
from talk2dino.training.fit import _Run, fit, make_optimizer, set_rate
from talk2dino.training.options import FitConfig

C, D, M = 7, 13, 3  # as in conftest.py

SCRIPT = Path(__file__).with_name("run_fit.py")
FAST = {"batch_size": 16, "epochs": 4, "lr": 1e-2, "log_every": 3}


def weights(folder):
    return {name: value.clone() for name, value in load_projection(folder).state_dict().items()}


def same(a, b, tolerance=0.0):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_every_strategy_learns(store, tmp_path, strategy):
    result = fit(store, FitConfig(strategy=strategy, **FAST), tmp_path)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    assert result.steps == 4 * (122 // 16)
    assert result.projection.config() == {"in_dim": C, "out_dim": D, "hidden": [D], "activation": "tanh"}
    same(weights(tmp_path), result.projection.state_dict())


def test_what_a_run_leaves(store, tmp_path):
    config = FitConfig(validation_share=0.2, **FAST)
    fit(store, config, tmp_path, published=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"projection.safetensors", "config.json", "metrics.jsonl", "curves.png", "heads.png", "README.md"}
    assert names >= {"best", "checkpoint.pt", "projection.pth"}
    assert not [name for name in names if "tmp" in name]
    described = json.loads((tmp_path / "config.json").read_text())
    assert described["settings"]["strategy"] == "max"
    assert (tmp_path / "best" / "config.json").read_text() == (tmp_path / "config.json").read_text()
    same(weights(tmp_path / "projection.pth"), weights(tmp_path))
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    validated = [record for record in records if "validation_loss" in record]
    assert len(validated) == 4
    assert validated[-1]["text_to_image@10"] > 0.8 > validated[0]["text_to_image@1"]
    heads = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["head_counts"]
    assert heads.argmax() == 0
    assert heads.sum() == 16 * records[-1]["step"]


def test_best_and_last_are_both_kept(store, tmp_path):
    fit(store, FitConfig(validation_share=0.2, **{**FAST, "epochs": 12, "lr": 0.3}), tmp_path)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    validated = {r["step"]: r["validation_loss"] for r in records if "validation_loss" in r}
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["best"] == min(validated.values()) == validated[state["at_best"]]
    assert state["at_best"] < state["step"]
    with pytest.raises(AssertionError):
        same(weights(tmp_path / "best"), weights(tmp_path))


@pytest.mark.parametrize("side", ["vision", "both"])
def test_other_sides(store, tmp_path, side):
    config = FitConfig(side=side, shared_dim=11 if side == "both" else None, strategy="pairwise-max", **FAST)
    result = fit(store, config, tmp_path)
    width = 11 if side == "both" else C
    assert result.vision_projection.config() == {
        "in_dim": D,
        "out_dim": width,
        "hidden": [width],
        "activation": "tanh",
    }
    assert (result.projection is None) == (side == "vision")
    same(weights(tmp_path / "vision_projection.safetensors"), result.vision_projection.state_dict())
    with pytest.raises(InputError, match="published layout"):
        fit(store, config, tmp_path, published=True)


def test_resume_is_exact(store, tmp_path):
    config = FitConfig(strategy="sampled", validation_share=0.2, save_every=5, optimizer="adamw", **FAST)
    fit(store, config, tmp_path / "whole")
    for steps in (7, 11, None):
        part = config.model_copy(update={"max_steps": steps})
        fit(store, part, tmp_path / "parts")
    same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    same(weights(tmp_path / "whole" / "best"), weights(tmp_path / "parts" / "best"))
    counts = [torch.load(tmp_path / f / "checkpoint.pt", weights_only=True)["head_counts"] for f in ("whole", "parts")]
    assert torch.equal(*counts)


def records_of(folder):
    """metrics.jsonl as it is, less the rate, which no two runs share."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "steps_per_second"} for line in lines]


def test_metrics_of_a_run_that_was_cut_off_are_those_of_a_whole_one(store, tmp_path):
    config = FitConfig(validation_share=0.2, save_every=5, **{**FAST, "log_every": 4})
    fit(store, config, tmp_path / "whole")

    def cut(record):
        if record["step"] == 8:  # three steps after the checkpoint, four before the next record
            raise RuntimeError("cut off")

    with pytest.raises(RuntimeError):
        fit(store, config, tmp_path / "parts", watch=cut)
    begun = []
    fit(store, config, tmp_path / "parts", watch=lambda record: begun.append(record["first_step"]))
    assert set(begun) == {5}
    assert records_of(tmp_path / "parts") == records_of(tmp_path / "whole")


def test_a_killed_run_goes_on(learnable, tmp_path):
    """kill -9 once, between two checkpoints: the short form of the test below."""
    torch.save(learnable, tmp_path / "tensors.pt")
    arguments = ["--lr", "0.01", "--batch", "16", "--epochs", "4", "--save-every", "5"]
    command = [sys.executable, str(SCRIPT), str(tmp_path / "tensors.pt"), str(tmp_path / "killed"), *arguments]
    with subprocess.Popen([*command, "--slow", "0.1"]) as process:
        deadline = time.time() + 60
        while not (tmp_path / "killed" / "checkpoint.pt").exists() and time.time() < deadline:
            time.sleep(0.01)
        time.sleep(0.25)
        process.kill()
    assert 0 < torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True)["step"] < 4 * (122 // 16)
    config = FitConfig(lr=0.01, batch_size=16, epochs=4, save_every=5, log_every=1)
    for folder in ("killed", "whole"):
        fit(FeatureStore.from_tensors(*learnable), config, tmp_path / folder)
    same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert records_of(tmp_path / "whole") == records_of(tmp_path / "killed")


@pytest.mark.long
def test_killed_run_goes_on_exactly(learnable, tmp_path):
    torch.save(learnable, tmp_path / "tensors.pt")
    arguments = ["--lr", "0.01", "--batch", "16", "--epochs", "40", "--save-every", "7"]
    command = [sys.executable, str(SCRIPT), str(tmp_path / "tensors.pt")]
    subprocess.run([*command, str(tmp_path / "whole"), *arguments], check=True, timeout=120)
    process = subprocess.Popen([*command, str(tmp_path / "killed"), *arguments, "--slow", "0.005"])
    checkpoint = tmp_path / "killed" / "checkpoint.pt"
    deadline = time.time() + 60
    while not checkpoint.exists() and time.time() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = torch.load(checkpoint, weights_only=True)["step"]
    assert 0 < done < 40 * (122 // 16)
    subprocess.run([*command, str(tmp_path / "killed"), *arguments], check=True, timeout=120)
    same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    assert all(a < b for a, b in itertools.pairwise(steps))


def test_ctrl_c_saves(learnable, tmp_path):
    torch.save(learnable, tmp_path / "tensors.pt")
    command = [sys.executable, str(SCRIPT), str(tmp_path / "tensors.pt"), str(tmp_path / "run"), "--slow", "0.01"]
    process = subprocess.Popen([*command, "--epochs", "1000"], stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 60
    while not (tmp_path / "run" / "metrics.jsonl").exists() and time.time() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in error
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] > 0


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
        moved = Aligner(FitConfig(**BASE, **CONFIGS[name]), C, D).state_dict()
        assert any(not torch.equal(one[key], moved[key]) for key in one)
    told = [json.loads((tmp_path / "two" / f"told{rank}.json").read_text()) for rank in range(2)]
    assert told[0] == told[1]
    assert "the stored images of this batch are not finite" in told[0]


def test_refusals(store, tmp_path):
    with pytest.raises(DataError, match="a batch of 128 captions cannot be drawn from 122"):
        fit(store, FitConfig(), tmp_path)
    fit(store, FitConfig(**FAST), tmp_path / "run")
    with pytest.raises(DataError, match=r"other settings \(lr 0.01 -> 0.5\)"):
        fit(store, FitConfig(**{**FAST, "lr": 0.5}), tmp_path / "run")
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="damaged; remove it"):
        fit(store, FitConfig(**FAST), tmp_path / "run")
    with pytest.raises(InputError, match="unknown head strategy 'best'"):
        FitConfig.build(strategy="best")
    with pytest.raises(InputError, match=r"temperature: .*greater than 0"):
        FitConfig.build(temperature=0)
    small = FeatureStore.from_tensors(torch.zeros(3, M, D), torch.zeros(5, C), torch.tensor([0, 0, 1, 2, 2]))
    with pytest.raises(DataError, match="no feature 'cls', only: heads"):
        fit(small, FitConfig(strategy="cls", batch_size=2), tmp_path / "cls")


def test_nan_stops_and_keeps_the_last_good_state(learnable, tmp_path):
    features, captions, owner = learnable
    features["heads"][17, 1, 3] = float("nan")
    broken = FeatureStore.from_tensors(features, captions, owner)
    with pytest.raises(DataError, match=r"loss became nan at step \d+ .*stored images of this batch are not finite"):
        fit(broken, FitConfig(**FAST), tmp_path)
    assert all(value.isfinite().all() for value in weights(tmp_path).values())


def test_held_out_pictures_that_are_not_finite(learnable, tmp_path):
    features, captions, owner = learnable
    held = {name: value.clone() for name, value in features.items()}
    held["heads"][3] = float("nan")
    told = []
    result = fit(
        FeatureStore.from_tensors(features, captions, owner),
        FitConfig(**FAST),
        tmp_path,
        validation=FeatureStore.from_tensors(held, captions, owner),
        watch=told.append,
    )
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [r["validation_loss"] for r in records if "validation_loss" in r] == [None] * 4
    assert result.metrics["validation_loss"] is None
    assert [r["validation_loss"] for r in told if "validation_loss" in r] == [None] * 4
    assert not (tmp_path / "best").exists()
    assert "| validation_loss | not finite |" in (tmp_path / "README.md").read_text()


def test_a_run_cannot_be_made_shorter(store, tmp_path):
    fit(store, FitConfig(**FAST), tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(DataError, match="holds a run of 28 steps, more than the 7 that were asked for now"):
        fit(store, FitConfig(**{**FAST, "epochs": 1}), tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


def test_the_card_counts_what_was_trained_on(store, tmp_path):
    fit(store, FitConfig(validation_share=0.2, **FAST), tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "| pictures | 49 |\n| captions | 98 |\n| pictures to validate on | 12 |" in card
    data = json.loads((tmp_path / "config.json").read_text())["data"]
    assert (data["images"], data["captions"]) == (49, 98)


def test_without_matplotlib_it_is_told_that_nothing_is_drawn(store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not fit(store, FitConfig(**FAST), tmp_path).drawn
    assert not (tmp_path / "curves.png").exists()
    monkeypatch.undo()
    assert fit(store, FitConfig(**FAST), tmp_path).drawn
    assert (tmp_path / "curves.png").exists()


def test_tensorboard(store, tmp_path):
    pytest.importorskip("tensorboard", reason="extra 'log', which make test installs")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(store, FitConfig(validation_share=0.2, **FAST), tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    records = records_of(tmp_path)
    for name in ("loss", "lr", "validation_loss", "text_to_image@1"):
        expected = [(record["step"], record[name]) for record in records if name in record]
        assert [event.step for event in events.Scalars(name)] == [step for step, _ in expected]
        assert [event.value for event in events.Scalars(name)] == pytest.approx([value for _, value in expected])


def test_one_run_at_a_time_in_a_folder(store, tmp_path):
    with folder_lock(tmp_path), pytest.raises(OutputError, match="another run is writing to"):
        fit(store, FitConfig(**FAST), tmp_path)
    assert fit(store, FitConfig(**FAST), tmp_path).steps == 28


def test_schedule():
    config = FitConfig(schedule="cosine", warmup_steps=4, lr=0.1)
    optimizer = make_optimizer(Aligner(config, C, D), config)
    rates = []
    for step in (0, 3, 4, 7, 10):
        set_rate(optimizer, config, step, 10)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.025, 0.1, 0.1, 0.05, 0.0])


def test_learned_temperature_moves(store, tmp_path):
    fit(store, FitConfig(learned_temperature=True, **FAST), tmp_path)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["temperature"] != pytest.approx(0.07, abs=1e-4)
    assert records[-1]["temperature"] >= 0.01


def test_weights_that_are_not_finite_never_replace_good_ones(learnable, tmp_path):
    store = FeatureStore.from_tensors(*learnable)
    config = FitConfig(**{**FAST, "save_every": 3, "epochs": 1})

    def burst(record):
        if record["step"] == 3:  # from here on every step overflows
            for parameter in runs[0].aligner.parameters():
                parameter.data.mul_(float("inf"))

    runs = []
    real = _Run.__init__

    def remember(self, *arguments):
        real(self, *arguments)
        runs.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Run, "__init__", remember)
        patch.setattr(_Run, "_step", lambda self, step: 1.0)  # the loss does not tell
        with pytest.raises(DataError, match=r"weights stopped being finite at step 3: .* no checkpoint yet"):
            fit(store, config, tmp_path / "none", watch=burst)
        runs.clear()
        fit(store, config.model_copy(update={"max_steps": 2}), tmp_path / "run")
        good = (tmp_path / "run" / "checkpoint.pt").read_bytes()
        runs.clear()
        with pytest.raises(DataError, match=r"weights stopped .* keeps its last checkpoint, from before that"):
            fit(store, config, tmp_path / "run", watch=burst)
        assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == good
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


def test_a_loss_that_overflows_keeps_what_was_before(learnable, tmp_path):
    """The weights are spoilt by a step whose own loss was fine: the next loss tells, and they are not saved."""
    store = FeatureStore.from_tensors(*learnable)
    fit(store, FitConfig(**{**FAST, "max_steps": 2}), tmp_path)
    good = (tmp_path / "checkpoint.pt").read_bytes()

    def overflow(optimizer, config, step, total):
        for group in optimizer.param_groups:
            group["lr"] = float("inf")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("talk2dino.training.fit.set_rate", overflow)
        message = r"became nan at step 3 .*features are fine; .* keeps its last checkpoint.* lower the learning rate"
        with pytest.raises(DataError, match=message):
            fit(store, FitConfig(**FAST), tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == good


def test_a_run_goes_on_with_its_own_data_alone(learnable, tmp_path):
    features, captions, owner = learnable
    fit(FeatureStore.from_tensors(features, captions, owner), FitConfig(**FAST), tmp_path)
    longer = FitConfig(**{**FAST, "epochs": 5})
    fewer = FeatureStore.from_tensors(features, captions[:-2], owner[:-2])
    with pytest.raises(DataError, match=r"holds a run on other data .* or another folder"):
        fit(fewer, longer, tmp_path)
    assert fit(FeatureStore.from_tensors(features, captions, owner), longer, tmp_path).steps == 5 * 7


def test_lost_metrics_do_not_stop_a_run(store, tmp_path):
    fit(store, FitConfig(**FAST), tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    fit(store, FitConfig(**{**FAST, "epochs": 5}), tmp_path)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [30, 33, 35]


def test_refused_before_anything_is_trained(store, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"tanh, nothing else; got side 'text' with relu: leave out --published"):
        fit(store, FitConfig(activation="relu", **FAST), tmp_path / "out", published=True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"talk2dino\[log\]"):
        fit(store, FitConfig(**FAST), tmp_path / "out", tensorboard=True)
    with pytest.raises(InputError, match="unknown device 'gpu'; accepted: auto, cpu"):
        fit(store, FitConfig(**FAST), tmp_path / "out", device="gpu")
    with pytest.raises(DataError, match="1 picture to validate on, but at least 2"):
        fit(store, FitConfig(validation_share=0.01, **FAST), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="is a feature store; choose another folder"):
        fit(store, FitConfig(**FAST), tmp_path)
    for values, message in (
        ({"lr": float("inf")}, r"lr: .*finite number \(got inf\)"),
        ({"seed": -1}, r"seed: .*\(got -1\)"),
        ({"shared_dim": 11}, "shared_dim is the width where both sides meet: it goes with side 'both', not 'text'"),
        ({"learning_rat": 1, "lr_": 2}, "no setting named 'learning_rat'.*no setting named 'lr_'; did you mean lr"),
    ):
        with pytest.raises(InputError, match=message):
            FitConfig.build(**values)


class SmallDisk(io.FileIO):
    """A file on a disk that is full after 3000 bytes."""

    def write(self, content):
        if self.tell() + len(content) > 3000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(content)


def full_disk(path, mode, **options):
    return SmallDisk(path, mode) if "checkpoint" in str(path) else open(path, mode, **options)


def test_full_disk_keeps_the_last_checkpoint(store, tmp_path, monkeypatch):
    fit(store, FitConfig(**FAST), tmp_path)
    good = (tmp_path / "checkpoint.pt").read_bytes()
    monkeypatch.setattr("talk2dino.training.checkpoint.open", full_disk, raising=False)
    with pytest.raises(OutputError, match=r"checkpoint.pt: the disk is full; free some space"):
        fit(store, FitConfig(**{**FAST, "epochs": 5}), tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == good
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu(store, tmp_path):
    cpu, gpu = (fit(store, FitConfig(**FAST), tmp_path / name, device=name) for name in ("cpu", "cuda"))
    same(weights(gpu.folder), weights(cpu.folder), tolerance=1e-3)
    fit(store, FitConfig(**{**FAST, "epochs": 5}), gpu.folder, device="auto")
