"""Downloads are read back by the package; the copied calls give the same labels."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from webpage import PICTURES

from talk2dino import Segmentation

RED = (201, 7, 33)


@pytest.fixture
def harbour(web):
    web.example("harbour")
    web.type_words("water, grass, boat, ball, mushroom=mushroom|toadstool")
    web.page.check("#background")
    web.page.fill("[data-name=water] .colour", "#{:02x}{:02x}{:02x}".format(*RED))
    web.settle()
    return web


def saved(web, kind: str, folder: Path) -> Path:
    with web.page.expect_download() as download:
        web.page.click(f"[data-save={kind}]")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


@pytest.mark.parametrize(
    ("kind", "name"), [("png", "harbour.labels.png"), ("json", "harbour.json"), ("npz", "harbour.npz")]
)
def test_files_of_the_package(harbour, tmp_path, kind, name):
    path = saved(harbour, kind, tmp_path)
    assert path.name == name
    read = Segmentation.load(path)
    assert read.names == ("background", "water", "grass", "boat", "ball", "mushroom")
    assert np.mean(read.labels == harbour.labels()) >= 0.999
    if kind != "npz":  # .npz holds the service's own colours
        assert tuple(read.palette[1]) == RED
    if kind == "json":
        assert json.loads(path.read_text())["categories"][1] == {"id": 1, "name": "water", "color": list(RED)}


def test_overlay_is_what_the_page_shows(harbour, tmp_path):
    path = saved(harbour, "overlay", tmp_path)
    assert path.name == "harbour.overlay.png"
    with Image.open(path) as drawn, Image.open(PICTURES / "harbour.png") as picture:
        overlay, image = (
            np.asarray(drawn.convert("RGB")).astype(float),
            np.asarray(picture.convert("RGB")).astype(float),
        )
    assert overlay.shape[0] > 360  # a legend stands below
    labels = harbour.labels()
    inside = labels == 1
    inside[:-1] &= inside[1:]
    inside[:, :-1] &= inside[:, 1:]  # no line between classes
    inside[-1], inside[:, -1] = False, False
    expected = image + (np.array(RED) - image) * 0.6
    assert np.abs(overlay[:360] - expected)[inside].max() <= 1.5


def test_copied_python_runs(harbour, tmp_path, monkeypatch):
    harbour.type_words("brick wall", key="Shift+Enter")
    harbour.page.click("#code")
    code = harbour.page.text_content("#code-python")
    harbour.page.click("#code-dialog button.primary")
    shutil.copy(PICTURES / "harbour.png", tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "copied", "exec"), {})
    assert np.mean(Segmentation.load("harbour.labels.png").labels == harbour.labels()) >= 0.999


def test_copied_command_line_runs(harbour, tmp_path, monkeypatch, capsys):
    from command import run_here

    harbour.page.evaluate("talk2dino.store.words.find((word) => word.name === 'grass').threshold = 0.6")
    harbour.page.evaluate("talk2dino.store.changed('labels')")
    harbour.settle()
    harbour.page.click("#code")
    command = shlex.split(harbour.page.text_content("#code-shell"))
    harbour.page.click("#code-dialog button.primary")
    assert command[0] == "talk2dino"
    shutil.copy(PICTURES / "harbour.png", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run_here(capsys, *command[1:]).returncode == 0
    assert np.mean(Segmentation.load("out/harbour.labels.png").labels == harbour.labels()) >= 0.999


def test_copied_calls_with_examples(harbour, tmp_path, monkeypatch, capsys):
    """A word by example is in both calls, and stands in the same place of the same labels."""
    from command import run_here

    harbour.mark((20, 20), (90, 80), "my ball")
    harbour.page.click("#code")
    code, command = harbour.page.text_content("#code-python"), harbour.page.text_content("#code-shell")
    harbour.page.click("#code-dialog button.primary")
    names = ["background", *harbour.page.evaluate("talk2dino.store.active.map(({ name }) => name)")]
    shown = np.array(names)[harbour.labels()]
    shutil.copy(PICTURES / "harbour.png", tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "copied", "exec"), {})
    assert run_here(capsys, *shlex.split(command)[1:]).returncode == 0
    for path in ("harbour.labels.png", "out/harbour.labels.png"):
        read = Segmentation.load(path)
        assert "my ball" in read.names
        assert np.mean(np.array(read.names)[read.labels] == shown) >= 0.999


def test_copy_puts_the_text_on_the_clipboard(visit):
    web = visit(permissions=["clipboard-read", "clipboard-write"]).open()
    web.example("beach")
    web.type_words("grass, car")
    web.page.click("#code")
    web.page.click("#copy-python")
    web.page.wait_for_selector("#toast:has-text('Copied.')")
    assert web.page.evaluate("navigator.clipboard.readText()") == web.page.text_content("#code-python")


def test_nothing_to_save_without_words(web):
    web.example("beach")
    assert web.page.is_disabled("[data-save=png]")
    web.type_words("grass")
    assert web.page.is_enabled("[data-save=png]")
