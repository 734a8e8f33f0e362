import errno
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from fakes import Malicious
from runs import FAST, SCRIPT, records_of, same, weights

from talk2dino.errors import CheckpointError, DataError, OutputError
from talk2dino.features.store import FeatureStore
from talk2dino.io.lock import folder_lock
from talk2dino.training.fit import _Run, train
from talk2dino.training.options import TrainOptions


def test_resume_is_exact(store, tmp_path):
    config = TrainOptions(strategy="sampled", validation_share=0.2, save_every=5, optimizer="adamw", **FAST)
    train(store, config, tmp_path / "whole")
    for steps in (7, 11, None):
        part = config.model_copy(update={"max_steps": steps})
        train(store, part, tmp_path / "parts")
    same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    same(weights(tmp_path / "whole" / "best"), weights(tmp_path / "parts" / "best"))
    counts = [torch.load(tmp_path / f / "checkpoint.pt", weights_only=True)["head_counts"] for f in ("whole", "parts")]
    assert torch.equal(*counts)


def test_metrics_of_a_run_that_was_cut_off_are_those_of_a_whole_one(store, tmp_path):
    config = TrainOptions(validation_share=0.2, save_every=5, **{**FAST, "log_every": 4})
    train(store, config, tmp_path / "whole")

    def cut(done, total, note=""):
        if done == 8:  # three steps after the checkpoint, four before the next record
            raise RuntimeError("cut off")

    with pytest.raises(RuntimeError):
        train(store, config, tmp_path / "parts", progress=cut)
    calls = []
    train(store, config, tmp_path / "parts", progress=lambda done, total, note="": calls.append((done, total)))
    assert (calls[0], calls[-1]) == ((5, 24), (24, 24))
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
    config = TrainOptions(lr=0.01, batch_size=16, epochs=4, save_every=5, log_every=1)
    for folder in ("killed", "whole"):
        train(FeatureStore.from_tensors(*learnable), config, tmp_path / folder)
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


def test_a_run_cannot_be_made_shorter(store, tmp_path):
    train(store, TrainOptions(**FAST), tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(DataError, match="holds a run of 28 steps, more than the 7 asked for"):
        train(store, TrainOptions(**{**FAST, "epochs": 1}), tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


def test_weights_that_are_not_finite_never_replace_good_ones(learnable, tmp_path):
    store = FeatureStore.from_tensors(*learnable)
    config = TrainOptions(**{**FAST, "save_every": 3, "epochs": 1})

    def burst(done, total, note=""):
        if done == 3:  # from here on every step overflows
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
        with pytest.raises(DataError, match=r"weights are no longer finite at step 3: .* no checkpoint yet"):
            train(store, config, tmp_path / "none", progress=burst)
        runs.clear()
        train(store, config.model_copy(update={"max_steps": 2}), tmp_path / "run")
        good = (tmp_path / "run" / "checkpoint.pt").read_bytes()
        runs.clear()
        with pytest.raises(DataError, match=r"weights are no longer .* keeps the last checkpoint before that"):
            train(store, config, tmp_path / "run", progress=burst)
        assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == good
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


def test_a_loss_that_overflows_keeps_what_was_before(learnable, tmp_path):
    """The weights are spoilt by a step whose own loss was fine: the next loss tells, and they are not saved."""
    store = FeatureStore.from_tensors(*learnable)
    train(store, TrainOptions(**{**FAST, "max_steps": 2}), tmp_path)
    good = (tmp_path / "checkpoint.pt").read_bytes()

    def overflow(optimizer, config, step, total):
        for group in optimizer.param_groups:
            group["lr"] = float("inf")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[_Run.__module__], "set_rate", overflow)
        message = r"became nan at step 3 .*features are finite. .* keeps the last checkpoint.* Lower the learning rate"
        with pytest.raises(DataError, match=message):
            train(store, TrainOptions(**FAST), tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == good


def test_a_run_goes_on_with_its_own_data_alone(learnable, tmp_path):
    features, captions, owner = learnable
    train(FeatureStore.from_tensors(features, captions, owner), TrainOptions(**FAST), tmp_path)
    longer = TrainOptions(**{**FAST, "epochs": 5})
    fewer = FeatureStore.from_tensors(features, captions[:-2], owner[:-2])
    with pytest.raises(DataError, match=r"holds a run on other data: .* choose another output folder"):
        train(fewer, longer, tmp_path)
    assert train(FeatureStore.from_tensors(features, captions, owner), longer, tmp_path).steps == 5 * 7


def test_lost_metrics_do_not_stop_a_run(store, tmp_path):
    train(store, TrainOptions(**FAST), tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    train(store, TrainOptions(**{**FAST, "epochs": 5}), tmp_path)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [30, 33, 35]


class SmallDisk(io.FileIO):
    """A file on a disk that is full after 3000 bytes."""

    def write(self, content):
        if self.tell() + len(content) > 3000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(content)


def full_disk(path, mode, **options):
    return SmallDisk(path, mode) if "checkpoint" in str(path) else open(path, mode, **options)


def test_full_disk_keeps_the_last_checkpoint(store, tmp_path, monkeypatch):
    train(store, TrainOptions(**FAST), tmp_path)
    good = (tmp_path / "checkpoint.pt").read_bytes()
    monkeypatch.setattr("talk2dino.training.checkpoint.open", full_disk, raising=False)
    with pytest.raises(OutputError, match=r"checkpoint.pt: the disk is full; free some space"):
        train(store, TrainOptions(**{**FAST, "epochs": 5}), tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == good
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_one_run_at_a_time_in_a_folder(store, tmp_path):
    with folder_lock(tmp_path), pytest.raises(OutputError, match="another run is writing to"):
        train(store, TrainOptions(**FAST), tmp_path)
    assert train(store, TrainOptions(**FAST), tmp_path).steps == 28


def test_nan_stops_and_keeps_the_last_good_state(learnable, tmp_path):
    features, captions, owner = learnable
    features["heads"][17, 1, 3] = float("nan")
    broken = FeatureStore.from_tensors(features, captions, owner)
    with pytest.raises(DataError, match=r"loss became nan at step \d+ .*stored images of this batch are not finite"):
        train(broken, TrainOptions(**FAST), tmp_path)
    assert all(value.isfinite().all() for value in weights(tmp_path).values())


def test_a_run_of_version_0_1_0_is_resumed(store, tmp_path):
    """Its files and weights have 'mapping' in their names, and its settings lack the newer ones."""
    options = TrainOptions(side="both", shared_dim=11, save_every=5, **FAST)
    train(store, options, tmp_path / "whole")
    train(store, options.model_copy(update={"max_steps": 9}), tmp_path / "old")
    path = tmp_path / "old" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    state["aligner"] = {name.replace("_projection.", "_mapping."): value for name, value in state["aligner"].items()}
    assert "text_mapping.layers.0.weight" in state["aligner"]
    del state["config"]["keep_partial_batch"]
    torch.save(state, path)
    for prefix in ("", "vision_"):
        (tmp_path / "old" / f"{prefix}projection.safetensors").rename(tmp_path / "old" / f"{prefix}mapping.safetensors")
    train(store, options, tmp_path / "old")
    for name in ("projection.safetensors", "vision_projection.safetensors"):
        same(weights(tmp_path / "old" / name), weights(tmp_path / "whole" / name))
    assert not list((tmp_path / "old").glob("*mapping*"))


def test_code_in_a_checkpoint_is_not_run(store, tmp_path):
    torch.save({"config": Malicious(tmp_path / "was run")}, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match=r"checkpoint.pt is damaged, or holds more than tensors and settings"):
        train(store, TrainOptions(**FAST), tmp_path)
    assert not (tmp_path / "was run").exists()
    torch.load(tmp_path / "checkpoint.pt", weights_only=False)
    assert (tmp_path / "was run").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_save_first(store, tmp_path, number):
    def stop(done, total, note=""):
        if done == 6:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        train(store, TrainOptions(**FAST), tmp_path, progress=stop)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 6


def test_equal_runs_leave_equal_files(learnable, tmp_path):
    """Bytes, not only weights: metadata has a fixed order. metrics.jsonl holds rates, and checkpoint.pt its length."""
    for name in ("one", "two"):
        options = TrainOptions(validation_share=0.2, **FAST)
        train(FeatureStore.from_tensors(*learnable), options, tmp_path / name, write_pth=True)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    equal = [str(file) for file in files if file.name not in ("metrics.jsonl", "checkpoint.pt")]
    assert {"projection.safetensors", "best/projection.safetensors", "projection.pth", "curves.png"} <= set(equal)
    for file in equal:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
