import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from talk2dino.cli import build_app
from talk2dino.errors import DataError, InputError
from talk2dino.methods import prototype_build as freeda_build
from talk2dino.methods.prototype_build import MaskedPicture
from talk2dino.methods.prototypes import PrototypeStore


@pytest.fixture(scope="module")
def call():
    app, runner = build_app(), CliRunner()

    def go(*arguments):
        return runner.invoke(app, ["freeda", "build", *map(str, arguments)])

    return go


SMALL = ("--model", "micro", "--device", "cpu", "--dtype", "float32")


def test_from_scenes(call, tmp_path):
    result = call("--world", 5, "--out", tmp_path, "--index", "exact", *SMALL)
    assert result.exit_code == 0, result.output
    store = PrototypeStore(tmp_path)
    assert f"{len(store)} prototypes" in result.stdout
    assert "exact search" in result.stdout
    again = call("--world", 5, "--out", tmp_path, *SMALL)  # nothing is left to do
    assert f"{len(store)} prototypes" in again.stdout


def test_from_pictures_with_masks(call, tmp_path):
    for name in ("pictures", "masks"):
        (tmp_path / name).mkdir()
    Image.fromarray(np.full((37, 41, 3), 99, np.uint8)).save(tmp_path / "pictures" / "a.png")
    Image.fromarray(np.ones((37, 41), np.uint8)).save(tmp_path / "masks" / "a.png")
    (tmp_path / "names.txt").write_text("background\nfog\n")
    given = ("--pictures", tmp_path / "pictures", "--masks", tmp_path / "masks", "--names", tmp_path / "names.txt")
    result = call(*given, "--out", tmp_path / "out", *SMALL)
    assert result.exit_code == 0, result.output
    assert PrototypeStore(tmp_path / "out").words == ["fog"]
    assert call(*given, "--out", tmp_path / "out", *SMALL).exit_code == 0  # the same again: nothing to do
    (tmp_path / "names.txt").write_text("background\nmist\n")
    renamed = call(*given, "--out", tmp_path / "out", *SMALL)
    assert re.search(r"made otherwise \(names: '\w+' there, '\w+' now\)", str(renamed.exception))
    (tmp_path / "names.txt").write_text("background\nfog\n")
    Image.fromarray(np.eye(37, 41, dtype=np.uint8)).save(tmp_path / "masks" / "a.png")
    other = call(*given, "--out", tmp_path / "out", *SMALL)
    assert re.search(r"made otherwise \(masks: '\w+' there, '\w+' now\)", str(other.exception))


def test_another_diffusion_is_refused_by_name(call, tmp_path, monkeypatch):
    """Captions, vocabulary and settings decide the pictures; the pipeline itself is not run here."""
    made = []

    def source(pipeline, captions, **settings):
        made.append(settings)
        for number, caption in enumerate(captions):
            image = np.full((16, 24, 3), 40 * number, np.uint8)
            yield caption, lambda image=image: MaskedPicture("x", image, {"ball": np.ones((16, 24), bool)})

    monkeypatch.setattr(freeda_build, "load_pipeline", lambda *_: None)
    monkeypatch.setattr(freeda_build, "diffusion_source", source)
    for name, text in (("captions", "a ball\na red ball\n"), ("words", "ball\n")):
        (tmp_path / f"{name}.txt").write_text(text)
    given = ("--captions", tmp_path / "captions.txt", "--vocabulary", tmp_path / "words.txt", "--out", tmp_path / "out")
    assert call(*given, *SMALL).exit_code == 0
    for option, value in (("--steps", 3), ("--picture-size", 256), ("--guidance", 2), ("--threshold", 0.25)):
        refused = call(*given, option, value, *SMALL)
        assert f"made otherwise ({option[2:].replace('-', '_')}: " in str(refused.exception)
    for name in ("captions", "words"):
        kept = (tmp_path / f"{name}.txt").read_text()
        (tmp_path / f"{name}.txt").write_text("a blue ball\n")
        refused = call(*given, *SMALL)
        assert f"made otherwise ({'vocabulary' if name == 'words' else name}: " in str(refused.exception)
        (tmp_path / f"{name}.txt").write_text(kept)


def test_failures(call, tmp_path):
    assert call("--out", tmp_path).exit_code == 2  # no source
    assert call("--out", tmp_path, "--world", 3, "--captions", tmp_path / "c.txt").exit_code == 2
    assert call("--out", tmp_path, "--pictures", tmp_path).exit_code == 2
    captions = call("--out", tmp_path, "--captions", tmp_path / "c.txt", *SMALL)
    assert isinstance(captions.exception, DataError)
    (tmp_path / "c.txt").write_text("a ball\n")
    pipeline = call("--out", tmp_path, "--captions", tmp_path / "c.txt", "--pipeline", tmp_path / "none", *SMALL)
    assert isinstance(pipeline.exception, InputError)
    assert "no Stable Diffusion pipeline" in str(pipeline.exception)
