import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from talk2dino.cli import build_app
from talk2dino.errors import DataError, InputError
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
