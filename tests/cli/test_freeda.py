import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from talk2dino.cli import build_app
from talk2dino.errors import DataError, InputError
from talk2dino.methods import prototype_build
from talk2dino.methods.prototypes import PrototypeStore


@pytest.fixture(scope="module")
def call():
    app, runner = build_app(), CliRunner()

    def go(*arguments):
        return runner.invoke(app, ["freeda", "build", *map(str, arguments)])

    return go


SMALL = ("--model", "micro", "--device", "cpu", "--dtype", "float32")


def test_from_scenes(call, tmp_path):
    result = call("--world", 5, "--out", tmp_path, *SMALL)
    assert result.exit_code == 0, result.output
    store = PrototypeStore(tmp_path)
    assert result.stdout == f"{len(store)} prototypes of {len(set(store.words))} words in {tmp_path}\n"
    again = call("--world", 5, "--out", tmp_path, *SMALL)  # nothing is left to do
    assert again.stdout == result.stdout


def test_from_images_with_masks(call, tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    Image.fromarray(np.full((37, 41, 3), 99, np.uint8)).save(tmp_path / "images" / "a.png")
    Image.fromarray(np.full((37, 41), 2, np.uint8)).save(tmp_path / "masks" / "a.png")
    names = tmp_path / "names.txt"
    names.write_text("background\n\nfog\n\n")  # value 1 has no name, and value 2 is fog
    given = (
        "--images",
        tmp_path / "images",
        "--masks",
        tmp_path / "masks",
        "--names",
        names,
        "--out",
        tmp_path / "out",
    )
    result = call(*given, *SMALL)
    assert result.exit_code == 0, result.output
    assert PrototypeStore(tmp_path / "out").words == ["fog"]
    assert call(*given, *SMALL).exit_code == 0  # the same again: nothing to do
    names.write_text("background\n\nmist\n")
    renamed = call(*given, *SMALL)
    assert re.search(r'other settings \(names: "\w+" before, "\w+" now\)', str(renamed.exception))
    names.write_text("background\n\nfog\n")
    Image.fromarray(np.eye(37, 41, dtype=np.uint8)).save(tmp_path / "masks" / "a.png")
    other = call(*given, *SMALL)
    assert re.search(r'other settings \(masks: "\w+" before, "\w+" now\)', str(other.exception))


def test_a_resumed_diffusion_needs_the_same_settings(call, tmp_path, monkeypatch):
    """Captions, vocabulary and settings decide the images; the pipeline itself does not run here."""
    from talk2dino.methods import attribution

    def generate(pipeline, caption, words, **settings):
        return attribution.Generated(np.zeros((16, 24, 3), np.uint8), ("ball",), np.ones((1, 16, 24)))

    monkeypatch.setattr(prototype_build, "load_pipeline", lambda *_: None)
    monkeypatch.setattr(attribution, "generate", generate)
    for name, text in (("captions", "a ball\na red ball\n"), ("words", "ball\n")):
        (tmp_path / f"{name}.txt").write_text(text)
    given = ("--captions", tmp_path / "captions.txt", "--vocabulary", tmp_path / "words.txt", "--out", tmp_path / "out")
    assert call(*given, *SMALL).exit_code == 0
    for option, value in (("--steps", 3), ("--image-size", 256), ("--guidance", 2), ("--threshold", 0.25)):
        refused = call(*given, option, value, *SMALL)
        assert f"other settings ({option[2:].replace('-', '_')}: " in str(refused.exception)
    for name in ("captions", "words"):
        kept = (tmp_path / f"{name}.txt").read_text()
        (tmp_path / f"{name}.txt").write_text("a blue ball\n")
        refused = call(*given, *SMALL)
        assert f"other settings ({'vocabulary' if name == 'words' else name}: " in str(refused.exception)
        (tmp_path / f"{name}.txt").write_text(kept)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "give one source: --world, --images or --captions; got none of them"),
        (("--world", 3, "--captions", "c.txt"), "got --world and --captions"),
        (("--images", "."), "--images needs --masks and --names"),
        (("--world", 0), "world"),
        (("--captions", "c.txt", "--image-size", 12), "multiple of 8"),
        (("--captions", "c.txt", "--threshold", 1.5), "threshold"),
    ],
)
def test_wrong_usage(call, tmp_path, given, message):
    result = call("--out", tmp_path, *given)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_failures(call, tmp_path):
    missing = call("--out", tmp_path, "--captions", tmp_path / "c.txt", *SMALL)
    assert isinstance(missing.exception, DataError)
    (tmp_path / "c.txt").write_text("\n\n")
    empty = call("--out", tmp_path, "--captions", tmp_path / "c.txt", *SMALL)
    assert "list of captions" in str(empty.exception)
    assert "is empty: expected one entry per line" in str(empty.exception)
    (tmp_path / "c.txt").write_text("a ball\n")
    pipeline = call("--out", tmp_path, "--captions", tmp_path / "c.txt", "--pipeline", tmp_path / "none", *SMALL)
    assert isinstance(pipeline.exception, InputError)
    assert "no Stable Diffusion pipeline at" in str(pipeline.exception)
