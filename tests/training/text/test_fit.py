"""Distilling a text tower: the loss, new and pretrained encoders, resuming, and the folder that comes out."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest
import torch

from talk2dino.errors import CheckpointError, DataError, InputError, ModelNotFoundError
from talk2dino.io.settings import build_options
from talk2dino.models.loading import load_parts
from talk2dino.models.weights import read_tensors
from talk2dino.training.loss import distillation_loss
from talk2dino.training.text.fit import batch_rows, split_pairs
from talk2dino.training.text.options import TextTrainOptions
from talk2dino.training.text.pairs import Pairs


def weights(folder):
    return read_tensors(folder / "text.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_loss_is_the_formula():
    torch.manual_seed(1)
    student, teacher = torch.randn(7, 5), torch.randn(7, 5)
    error = sum(float(((s - t) ** 2).sum()) for s, t in zip(student, teacher, strict=True))
    size = sum(float((t**2).sum()) for t in teacher)
    cosines = [float(s @ t / (s.norm() * t.norm())) for s, t in zip(student, teacher, strict=True)]
    expected = 2 * error / size + 3 * sum(1 - c for c in cosines) / 7
    assert float(distillation_loss(student, teacher, mse=2, cosine=3)) == pytest.approx(expected, rel=1e-5)
    assert float(distillation_loss(teacher, teacher, mse=1, cosine=1)) == pytest.approx(0, abs=1e-6)


def test_a_new_encoder_learns_and_its_folder_gives_the_same_texts(distil, tmp_path, pairs):
    noted = []
    result = distil(tmp_path / "es", max_steps=31, lr=1e-2, warmup_steps=2, progress=lambda *given: noted.append(given))
    records = [json.loads(line) for line in (tmp_path / "es" / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[-1] < 0.8 * losses[0]
    assert result.steps == 31
    assert result.model == "micro"
    assert noted[0][:2] == (0, 31)
    assert 0 < result.metrics["validation_cosine"] <= 1

    parts = load_parts("micro", text=tmp_path / "es")
    assert parts.config.languages == ("en", "es")
    assert parts.text.templates == ("{}",)
    teacher = load_parts("micro").text
    learned = pairs.texts[:40]
    student, truth = parts.text.embed(learned), teacher.embed(pairs.english[:40])
    assert student.shape == truth.shape == (40, 192)
    cosine = torch.nn.functional.cosine_similarity(student, truth)
    assert float(cosine.mean()) > 0.5
    alone = torch.cat([parts.text.embed([text]) for text in reversed(learned)]).flip(0)
    assert torch.allclose(alone, student, atol=1e-5)  # padding does not matter


@pytest.mark.parametrize("name", ["bert", "xlm-r"])
def test_pretrained_encoders(distil, encoders, tmp_path, name):
    distil(tmp_path / name, encoder=str(encoders / name))
    parts = load_parts("micro", text=tmp_path / name)
    long = " ".join(["árbol"] * 40)
    assert parts.text.embed([long], truncate=True).isfinite().all()
    assert not same(weights(tmp_path / name), {})
    start = {
        f"encoder.{k}": v for k, v in read_tensors(encoders / name / "model.safetensors").items() if "pooler" not in k
    }
    moved = weights(tmp_path / name)
    assert start.keys() == {key for key in moved if not key.startswith("proj.")}
    key = next(key for key in start if key.endswith("attention.self.query.weight"))
    assert 0 < float((moved[key] - start[key]).abs().max()) < 0.02  # trained on from where it was


def test_a_run_that_was_stopped_equals_one_that_was_not(distil, tmp_path):
    distil(tmp_path / "whole", max_steps=7)
    with pytest.raises(KeyboardInterrupt):
        distil(
            tmp_path / "parts", max_steps=7, progress=lambda done, *_: done == 4 and os.kill(os.getpid(), signal.SIGINT)
        )
    assert not (tmp_path / "parts" / "text.safetensors").exists()
    with pytest.raises(CheckpointError, match="its run is not finished: repeat the command"):
        load_parts("micro", text=tmp_path / "parts")
    assert distil(tmp_path / "parts", max_steps=7).steps == 7
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 7, 7]


def test_another_run_in_the_folder_is_refused(distil, tmp_path, pairs):
    distil(tmp_path, max_steps=2)
    before = weights(tmp_path)
    with pytest.raises(InputError, match=r"holds a run with other settings \(lr: 0.0005 before, 0.1 now\)"):
        distil(tmp_path, max_steps=2, lr=0.1)
    with pytest.raises(DataError, match="holds a run on other data"):
        distil(tmp_path, max_steps=2, pairs=Pairs(pairs.texts[::-1], pairs.english[::-1]))
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"checkpoint.pt is damaged"):
        distil(tmp_path, max_steps=2)
    assert same(before, weights(tmp_path))


def test_a_loss_that_is_not_finite_ends_the_run(distil, tmp_path):
    with pytest.raises(DataError, match=r"loss became nan|no longer finite"):
        distil(tmp_path, max_steps=60, lr=1e30, warmup_steps=0, mse=1e30)
    assert not (tmp_path / "text.safetensors").exists()


def test_batches_are_epochs_in_new_orders():
    options = TextTrainOptions(languages=("es",), batch_size=5)
    first = [batch_rows(step, 17, options) for step in range(6)]
    assert all(len(rows) == 5 for rows in first)
    assert len({int(row) for rows in first[:3] for row in rows}) == 15
    assert first[0].tolist() != first[3].tolist()
    assert first[4].tolist() == batch_rows(4, 17, options).tolist()


def test_held_out_pairs_share_no_english_with_the_others():
    pairs = Pairs(tuple("abcdefghij"), ("x", "x", "y", "y", "z", "z", "u", "v", "w", "w"))
    learned, held = split_pairs(pairs, TextTrainOptions(languages=("es",), validation_share=0.34))
    assert held is not None
    assert len(learned) + len(held) == 10
    assert not set(learned.english) & set(held.english)
    assert split_pairs(pairs, TextTrainOptions(languages=("es",), validation_share=0)) == (pairs, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"languages": ("xx",)}, "unknown language 'xx'"), ({"languages": ()}, "at least one language"),
        ({"languages": ("es",), "mse": 0, "cosine": 0}, "cannot both be 0"),
        ({"languages": ("es",), "width": 17, "heads": 3}, "width 17 is not a multiple of 3 heads"),
        ({"languages": ("es",), "rate": 1}, "unknown option 'rate'"),
    ],
)  # fmt: skip
def test_settings_are_checked(options, message):
    with pytest.raises(InputError, match=message):
        build_options(TextTrainOptions, options)


def test_languages_of_the_tower():
    assert TextTrainOptions(languages=("es",)).read_languages == ("en", "es")
    assert TextTrainOptions(languages=("es",), english=False).read_languages == ("es",)


def test_what_is_no_encoder_is_refused(distil, tmp_path, encoders):
    with pytest.raises(ModelNotFoundError, match="no encoder 'nobody/nothing': it is neither a folder nor a model"):
        distil(tmp_path / "a", encoder="nobody/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot read an encoder from .*empty"):
        distil(tmp_path / "b", encoder=str(tmp_path / "empty"))
    with pytest.raises(DataError, match="batch size is 500, but there are"):
        distil(tmp_path / "c", batch_size=500)


def test_code_in_an_encoder_is_not_run(distil, encoders, tmp_path):
    shutil.copytree(encoders / "bert", tmp_path / "evil")
    (tmp_path / "evil" / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\n")
    config = tmp_path / "evil" / "config.json"
    auto = {"AutoConfig": "code.C", "AutoModel": "code.C", "AutoTokenizer": ["code.C", None]}
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "evil", "auto_map": auto}))
    with pytest.raises(CheckpointError, match=r"cannot read an encoder from .*evil"):
        distil(tmp_path / "out", encoder=str(tmp_path / "evil"))
    assert not (tmp_path / "ran").exists()
