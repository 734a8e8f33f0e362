import json
import sys

import pytest
import torch
from runs import FAST, C, D, M, records_of, same, weights

from talk2dino.errors import CheckpointError, DataError, InputError, MissingExtraError, Talk2DinoWarning
from talk2dino.features.store import FeatureStore
from talk2dino.stages.heads import STRATEGIES
from talk2dino.training.aligner import Aligner, make_optimizer, set_rate
from talk2dino.training.fit import train
from talk2dino.training.options import TrainOptions


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_every_strategy_learns(store, tmp_path, strategy):
    result = train(store, TrainOptions(strategy=strategy, **FAST), tmp_path)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    assert result.steps == 4 * (122 // 16)
    assert result.projection.config() == {"in_dim": C, "out_dim": D, "hidden": [D], "activation": "tanh"}
    same(weights(tmp_path), result.projection.state_dict())


def test_what_a_run_leaves(store, tmp_path):
    config = TrainOptions(validation_share=0.2, **FAST)
    train(store, config, tmp_path, write_pth=True)
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
    train(store, TrainOptions(validation_share=0.2, **{**FAST, "epochs": 12, "lr": 0.3}), tmp_path)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    validated = {r["step"]: r["validation_loss"] for r in records if "validation_loss" in r}
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["best"] == min(validated.values()) == validated[state["at_best"]]
    assert state["at_best"] < state["step"]
    with pytest.raises(AssertionError):
        same(weights(tmp_path / "best"), weights(tmp_path))


@pytest.mark.parametrize("side", ["vision", "both"])
def test_other_sides(store, tmp_path, side):
    config = TrainOptions(side=side, shared_dim=11 if side == "both" else None, strategy="pairwise-max", **FAST)
    result = train(store, config, tmp_path)
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
        train(store, config, tmp_path, write_pth=True)


def test_refusals(store, tmp_path):
    with pytest.raises(DataError, match="the batch size is 128, but there are 122 captions"):
        train(store, TrainOptions(), tmp_path)
    train(store, TrainOptions(**FAST), tmp_path / "run")
    with pytest.raises(
        InputError, match=r"other settings \(lr: 0.01 before, 0.5 now\): use the same settings to resume"
    ):
        train(store, TrainOptions(**{**FAST, "lr": 0.5}), tmp_path / "run")
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=r"checkpoint.pt is damaged, .* remove it to start"):
        train(store, TrainOptions(**FAST), tmp_path / "run")
    small = FeatureStore.from_tensors(torch.zeros(3, M, D), torch.zeros(5, C), torch.tensor([0, 0, 1, 2, 2]))
    with pytest.raises(DataError, match="no feature 'cls', only: heads"):
        train(small, TrainOptions(strategy="cls", batch_size=2), tmp_path / "cls")


def test_held_out_images_that_are_not_finite(learnable, tmp_path):
    features, captions, owner = learnable
    held = {name: value.clone() for name, value in features.items()}
    held["heads"][3] = float("nan")
    notes = []
    result = train(
        FeatureStore.from_tensors(features, captions, owner),
        TrainOptions(**FAST),
        tmp_path,
        validation=FeatureStore.from_tensors(held, captions, owner),
        progress=lambda done, total, note="": notes.append(note),
    )
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [r["validation_loss"] for r in records if "validation_loss" in r] == [None] * 4
    assert result.metrics["validation_loss"] is None
    notes = [note for note in notes if note]
    assert len(notes) == 4
    assert all("validation loss not finite (check the held-out features)" in note for note in notes)
    assert not (tmp_path / "best").exists()
    assert "| validation_loss | not finite |" in (tmp_path / "README.md").read_text()


def test_the_card_counts_what_was_trained_on(store, tmp_path):
    train(store, TrainOptions(validation_share=0.2, **FAST), tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "| images | 49 |\n| captions | 98 |\n| validation images | 12 |" in card
    data = json.loads((tmp_path / "config.json").read_text())["data"]
    assert (data["images"], data["captions"]) == (49, 98)


def test_without_matplotlib_no_figures_are_drawn(store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.warns(Talk2DinoWarning, match=r"not drawn because matplotlib is not installed: .*talk2dino\[plots\]"):
        train(store, TrainOptions(**FAST), tmp_path)
    assert not (tmp_path / "curves.png").exists()
    monkeypatch.undo()
    train(store, TrainOptions(**FAST), tmp_path)
    assert (tmp_path / "curves.png").exists()


def test_tensorboard(store, tmp_path):
    pytest.importorskip("tensorboard", reason="extra 'log', which make test installs")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(store, TrainOptions(validation_share=0.2, **FAST), tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    records = records_of(tmp_path)
    for name in ("loss", "lr", "validation_loss", "text_to_image@1"):
        expected = [(record["step"], record[name]) for record in records if name in record]
        assert [event.step for event in events.Scalars(name)] == [step for step, _ in expected]
        assert [event.value for event in events.Scalars(name)] == pytest.approx([value for _, value in expected])


def test_schedule():
    config = TrainOptions(schedule="cosine", warmup_steps=4, lr=0.1)
    optimizer = make_optimizer(Aligner(config, C, D), config)
    rates = []
    for step in (0, 3, 4, 7, 10):
        set_rate(optimizer, config, step, 10)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.025, 0.1, 0.1, 0.05, 0.0])


def test_learned_temperature_moves(store, tmp_path):
    train(store, TrainOptions(learned_temperature=True, **FAST), tmp_path)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["temperature"] != pytest.approx(0.07, abs=1e-4)
    assert records[-1]["temperature"] >= 0.01


def test_refused_before_anything_is_trained(store, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"text side with tanh; got side 'text' with relu: leave out --write-pth"):
        train(store, TrainOptions(activation="relu", **FAST), tmp_path / "out", write_pth=True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"talk2dino\[log\]"):
        train(store, TrainOptions(**FAST), tmp_path / "out", tensorboard=True)
    with pytest.raises(InputError, match="unknown device 'gpu'; accepted: auto, cpu"):
        train(store, TrainOptions(**FAST), tmp_path / "out", device="gpu")
    with pytest.raises(DataError, match="validation needs at least 2 images; got 1"):
        train(store, TrainOptions(validation_share=0.01, **FAST), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="is a feature store: choose another output folder"):
        train(store, TrainOptions(**FAST), tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu(store, tmp_path):
    cpu, gpu = (train(store, TrainOptions(**FAST), tmp_path / name, device=name) for name in ("cpu", "cuda"))
    same(weights(gpu.folder), weights(cpu.folder), tolerance=1e-3)
    train(store, TrainOptions(**{**FAST, "epochs": 5}), gpu.folder, device="auto")
