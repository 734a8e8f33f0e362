"""Folders of train-text: used by --text, tied to a text space, and refused with one sentence where they do not fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from command import run_here
from PIL import Image

from talk2dino import Segmenter
from talk2dino.errors import CheckpointError, InputError, PromptError
from talk2dino.evaluation.options import EvaluationOptions
from talk2dino.evaluation.runs import evaluate
from talk2dino.models.loading import load_parts
from talk2dino.models.saving import save_model
from talk2dino.models.text_tower import HubTokenizer, TextTower, attach_text
from talk2dino.training.text.new_encoder import train_tokenizer
from talk2dino.world.spanish import spanish_names, write_pairs

SIZES = ("--width", "16", "--depth", "1", "--heads", "2", "--batch-size", "13", "--max-steps", "3")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    path.write_text("\n".join("\t".join(pair) for pair in write_pairs(60)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tower(tmp_path_factory, pairs):
    """A Spanish tower for micro, after three steps."""
    from talk2dino.training.text.fit import train_text
    from talk2dino.training.text.options import TextTrainOptions
    from talk2dino.training.text.pairs import read_pairs

    options = TextTrainOptions(
        languages=("es",), width=16, depth=1, heads=2, batch_size=13, max_steps=3, templates=("{}", "una foto de {}")
    )
    out = tmp_path_factory.mktemp("towers") / "es"
    train_text(read_pairs([pairs]), options, out, model="micro", device="cpu")
    return out


def test_the_tower_is_the_masked_mean_and_a_linear_layer():
    torch.manual_seed(3)
    states = torch.randn(2, 5, 7)

    class Encoder(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            assert attention_mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
            return type("Output", (), {"last_hidden_state": states})

    tower = TextTower(Encoder(), 7, 3, 11)
    out = tower(torch.zeros(2, 5, dtype=torch.long), torch.tensor([2, 4]))
    for row, count in ((0, 3), (1, 5)):
        mean = sum(states[row, i] for i in range(count)) / count
        assert torch.allclose(out[row], tower.proj.weight @ mean + tower.proj.bias, atol=1e-6)


def test_long_texts_are_cut_or_refused():
    tokenizer = HubTokenizer(train_tokenizer(["un árbol rojo"], 97), 5)
    (row,) = tokenizer(["un árbol rojo un árbol rojo"], truncate=True)
    assert row[-1] == tokenizer.end
    with pytest.raises(PromptError, match=r"a prompt has \d+ tokens .*; at most 5 tokens"):
        tokenizer(["un árbol rojo un árbol rojo"])
    assert tokenizer([]).shape == (0, 5)


def test_words_of_the_language_go_through_the_tower(tower):
    segmenter = Segmenter.from_pretrained("micro", text=tower, device="cpu", dtype="float32")
    english = Segmenter.from_pretrained("micro", device="cpu", dtype="float32")
    text = segmenter.encode_text(["árbol", "tree"])
    raw = segmenter.text.embed(["árbol", "una foto de árbol", "tree", "una foto de tree"])
    psi = segmenter.projection(raw.view(2, 2, -1).mean(1))
    assert torch.allclose(text.embeddings, torch.nn.functional.normalize(psi, dim=-1), atol=1e-6)
    assert segmenter.config.source["text"] == "es"
    with pytest.raises(InputError, match="text features were made by micro"):  # words of two towers are two spaces
        english.decode(english.encode_image(torch.zeros(64, 64, 3, dtype=torch.uint8).numpy()), text)
    with pytest.raises(PromptError, match="reads English and Spanish"):
        segmenter.encode_text(["дерево"])
    assert segmenter.encode_text(["天空"]).understood == (("天空", "sky", "glossary"),)
    with pytest.raises(CheckpointError, match="cannot be saved in one file"):
        segmenter.save_pretrained(tower.parent / "saved")
    assert not (tower.parent / "saved").exists()


def test_the_text_space_of_another_model_is_refused(tower):
    """Another CLIP with the same dimensions passes every check of shapes; its psi would read noise."""
    parts = load_parts("micro")
    with torch.no_grad():
        parts.text.model.proj.weight.mul_(1.01)
    parts.config = replace(parts.config, name="other")
    with pytest.raises(
        CheckpointError, match=r"belongs to the text space of micro \(192 dimensions\), and the model other"
    ):
        attach_text(parts, tower)
    assert parts.config.languages == ("en", "zh")


def test_a_psi_of_another_text_space_is_refused(tmp_path):
    """The same for psi: a folder of train records the weights of the text tower whose captions it saw."""
    from talk2dino.models.fingerprint import weights_in_halves
    from talk2dino.models.projection import save_projection

    parts = load_parts("micro")
    save_projection(parts.projection, tmp_path / "projection.safetensors")
    recorded = {"vision": weights_in_halves(parts.vision), "text": weights_in_halves(parts.text.model)}

    def write():
        config = {"format": "talk2dino-alignment-1", "model": {"name": "vit-b-32", "weights": recorded}}
        (tmp_path / "config.json").write_text(json.dumps(config))

    write()
    assert load_parts("micro", projection=tmp_path).projection is not None
    recorded["text"] = dict.fromkeys(recorded["text"], "0" * 16)
    write()
    with pytest.raises(
        CheckpointError, match="trained on features of vit-b-32, whose text weights are not those of micro"
    ):
        load_parts("micro", projection=tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: (f / "config.json").unlink(),
            "no text tower at .*: expected a folder written by 'talk2dino train-text'",
        ),
        (lambda f: (f / "config.json").write_text('{"format": "talk2dino"}'), "holds no text tower"),
        (lambda f: edit(f, languages=["xx"]), "config.json is damaged: unknown language 'xx'"),
        (lambda f: edit(f, space={"name": "micro"}), "config.json is damaged: no entry 'dim'|no entry 'weights'"),
        (lambda f: (f / "text.safetensors").unlink(), "no weights file at"),
        (lambda f: (f / "text.safetensors").write_bytes(b"x" * 99), "cannot read weights from"),
        (lambda f: edit(f / "encoder", hidden_size=24, num_attention_heads=2), "does not fit encoder/config.json"),
        (lambda f: shutil.rmtree(f / "encoder"), "cannot read an encoder|no encoder"),
    ],
)
def test_damaged_folders_are_refused(tower, tmp_path, damage, message):
    folder = tmp_path / "es"
    shutil.copytree(tower, folder)
    damage(folder)
    with pytest.raises((CheckpointError, LookupError), match=message):
        load_parts("micro", text=folder)


def edit(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def test_evaluation_with_spanish_names(tower, tmp_path):
    synonyms = tmp_path / "names.txt"
    synonyms.write_text("\n".join(f"{name} = {word}" for name, word in spanish_names().items()), encoding="utf-8")
    options = EvaluationOptions(
        benchmark="world", model="micro", text=tower, synonyms=synonyms, limit=2, device="cpu", out=tmp_path / "out"
    )
    report = evaluate(options).reports[0]
    assert 0 <= report.metrics.miou < 0.5  # three steps teach little: the tower is used
    assert f"text tower from {tower}" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    kept = json.loads((tmp_path / "out" / "config.json").read_text())
    assert kept["text"] == str(tower)
    with pytest.raises(InputError, match=r"fingerprints.text"):  # another tower in the same folder
        evaluate(options.model_copy(update={"text": None}))


def test_the_verb_and_the_options_that_use_its_result(capsys, pairs, tmp_path):
    call = ("train-text", pairs, "--language", "es", "--model", "micro", "--out", tmp_path / "es", *SIZES, "--json")
    done = run_here(capsys, *call)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 3
    assert "árbol" not in (tmp_path / "es" / "README.md").read_text(encoding="utf-8")
    Image.new("RGB", (71, 67)).save(tmp_path / "a.png")
    segment = (
        "segment",
        tmp_path / "a.png",
        "-p",
        "árbol, cielo",
        "-m",
        "micro",
        "-o",
        tmp_path / "out",
        "--save",
        "palette",
    )
    assert run_here(capsys, *segment, "--text", tmp_path / "es").returncode == 0
    again = run_here(capsys, *segment)  # another tower, other results
    assert "finished already" not in again.stderr
    missing = run_here(capsys, *segment, "--text", tmp_path / "gone")
    assert missing.returncode == 2
    assert "no text tower at" in missing.stderr
    parts = load_parts("micro")
    with torch.no_grad():
        parts.text.model.proj.weight.mul_(1.01)
    other = save_model(parts, tmp_path / "other")
    foreign = run_here(capsys, *segment[:5], other, *segment[6:], "--text", tmp_path / "es")
    assert foreign.returncode == 1
    assert "belongs to the text space of micro" in foreign.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--language", "spanish"), 2, "unknown language 'spanish'; did you mean es?"),
        (("--language", "es", "--lr", "-1"), 2, "lr"),
        (("--language", "es", "--model", "vitt"), 1, "no model named 'vitt'"),
        (("--language", "es", "--batch-size", "13", "--encoder", "nobody/nothing"), 1, "no encoder 'nobody/nothing'"),
    ],
)
def test_wrong_calls_of_the_verb_leave_nothing_behind(capsys, pairs, tmp_path, arguments, code, message):
    model = () if "--model" in arguments else ("--model", "micro")
    done = run_here(capsys, "train-text", pairs, *arguments, *model, "--out", tmp_path / "out")
    assert done.returncode == code
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert not list((tmp_path / "out").glob("*"))


def test_vocabularies_and_find_take_the_tower(capsys, tower, tmp_path):
    made = run_here(
        capsys, "vocabulary", "build", "-p", "árbol", "-m", "micro", "--text", tower, "-o", tmp_path / "v.safetensors"
    )
    assert made.returncode == 0, made.stderr
    Image.new("RGB", (71, 67)).save(tmp_path / "a.png")
    segment = (
        "segment",
        tmp_path / "a.png",
        "--vocabulary",
        tmp_path / "v.safetensors",
        "-m",
        "micro",
        "-o",
        tmp_path / "o",
    )
    assert run_here(capsys, *segment, "--text", tower).returncode == 0
    assert run_here(capsys, *segment).returncode != 0  # its words are those of another tower
    found = run_here(
        capsys, "find", "árbol", tmp_path / "a.png", "-m", "micro", "--text", tower, "--index", tmp_path / "i"
    )
    assert found.returncode == 0, found.stderr
    assert "a.png" in found.stdout
    assert run_here(capsys, "find", "x", tmp_path / "a.png", "-m", "micro", "--text", tmp_path / "gone").returncode == 2
