"""Vocabulary files: what is read is what was written; damaged and foreign files are refused."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from talk2dino.errors import DataError, InputError
from talk2dino.types import TextFeatures
from talk2dino.words.vocabulary import (
    count_classes,
    load_vocabulary,
    merge_vocabularies,
    read_vocabulary,
    save_vocabulary,
)


def classes(names=("sky", "我的零件", "glare"), space="talk2dino:ab-cd", counts=(1, 3, 1), calibrated=True):
    generator = torch.Generator().manual_seed(5)
    rows = torch.nn.functional.normalize(torch.randn(sum(counts), 7, generator=generator), dim=1)
    scales = torch.rand(sum(counts), 2, generator=generator) if calibrated else None
    return TextFeatures(
        names, rows, 1, "micro", space, notes=("a note",), counts=counts, understood=(("天空", "sky", "glossary"),),
        calibration=scales,
    )  # fmt: skip


def test_a_vocabulary_is_read_as_it_was_written(tmp_path):
    text = classes()
    path = save_vocabulary(text, tmp_path / "a.safetensors", made="made from 3 words")
    again, made = read_vocabulary(path)
    for field in ("names", "negative", "model", "space", "clip", "notes", "counts", "understood"):
        assert getattr(again, field) == getattr(text, field)
    assert torch.equal(again.embeddings, text.embeddings)
    assert torch.equal(again.calibration, text.calibration)
    assert made == "made from 3 words"
    assert path.stat().st_size < 2000
    assert count_classes(again) == "2 classes, 1 of background"


def test_words_alone_have_no_calibration_and_may_have_clip_embeddings(tmp_path):
    text = TextFeatures(("a", "b"), torch.eye(2, 7), model="micro", space="freeda:1", clip=torch.eye(2, 5))
    again = load_vocabulary(save_vocabulary(text, tmp_path / "a.safetensors"), space="freeda:1")
    assert again.calibration is None
    assert torch.equal(again.clip, text.clip)


def test_a_vocabulary_of_another_model_is_refused(tmp_path):
    path = save_vocabulary(classes(), tmp_path / "a.safetensors")
    with pytest.raises(
        InputError, match=r"a.safetensors was made with the model micro \(talk2dino\).*fit the model vitb"
    ):
        load_vocabulary(path, space="talk2dino:ef", model="vitb")


def test_files_that_are_no_vocabularies(tmp_path):
    path = save_vocabulary(classes(), tmp_path / "a.safetensors")
    whole = path.read_bytes()
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["vocabulary"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for content in (b"", whole[:100], whole[:-9], b"x" * 300):
        path.write_bytes(content)
        with pytest.raises(DataError, match="damaged or not a vocabulary"):
            load_vocabulary(path)
    save_file(tensors, path)
    with pytest.raises(DataError, match="not a vocabulary"):
        load_vocabulary(path)
    save_file(tensors, path, {"vocabulary": json.dumps(about | {"names": ["sky"], "counts": []})})
    with pytest.raises(DataError, match="not a vocabulary"):
        load_vocabulary(path)
    save_file(tensors | {"embeddings": tensors["embeddings"] * torch.nan}, path, {"vocabulary": json.dumps(about)})
    with pytest.raises(DataError, match="not finite"):
        load_vocabulary(path)
    save_file(tensors, path, {"vocabulary": json.dumps(about | {"version": 2})})
    with pytest.raises(DataError, match="version 2"):
        load_vocabulary(path)
    with pytest.raises(DataError, match="no vocabulary at"):
        load_vocabulary(tmp_path / "b.safetensors")


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(InputError, match=r"a .safetensors file; got .*a.json"):
        save_vocabulary(classes(), tmp_path / "a.json")
    with pytest.raises(InputError, match="no classes"):
        save_vocabulary(TextFeatures((), torch.zeros(0, 7)), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_merged_vocabularies_have_the_classes_of_all():
    one, two = classes(("a", "b", "c")), classes(("d", "e", "c"))
    merged = merge_vocabularies([one, two])
    assert (merged.names, merged.negative) == (("a", "b", "d", "e", "c"), 1)
    assert merged.notes == ("a note", "averaged what both sides give for: c")
    with pytest.raises(InputError, match="weights or methods differ"):
        merge_vocabularies([one, classes(("x", "y", "z"), space="talk2dino:other")])
