"""The labels that the browser finds are those of the service."""

from __future__ import annotations

import io
import json

import httpx
import numpy as np
import pytest
from PIL import Image
from webpage import PICTURES

from talk2dino.io.rle import decode_rle

WORDS = "water, grass, boat, ball, mushroom=mushroom|toadstool, car, sand, tree, house, sky, fish, box, road"
NAMES = [word.split("=")[0].strip() for word in WORDS.split(",")]


def served_labels(address: str, name: str, **options: str) -> np.ndarray:
    """(H, W) labels of POST /v1/segment, 0 for the background or no class, n + 1 for the n-th of NAMES."""
    with (PICTURES / f"{name}.png").open("rb") as image:
        form = {"prompts": WORDS, "mode": "whole", **options}
        answer = (
            httpx.post(f"{address}/v1/segment", files={"image": image}, data=form, timeout=60).raise_for_status().json()
        )
    labels = np.zeros((answer["height"], answer["width"]), dtype=int)
    for annotation in answer["annotations"]:
        labels[decode_rle(annotation["segmentation"])] = NAMES.index(answer["names"][annotation["category_id"]]) + 1
    return labels


@pytest.mark.parametrize("name", ["beach", "harbour", "garden", "dunes"])
def test_browser_and_server_agree(visit, service, name):
    web = visit().open()
    web.example(name)
    web.type_words(WORDS)

    def agrees(**options: str) -> None:
        web.settle()
        found, served = web.labels(), served_labels(service, name, **options)
        assert found.shape == served.shape
        assert np.mean(found == served) >= 0.999, options
        assert len(np.unique(served)) > 2  # there is something to agree on

    agrees(clean="false")
    web.page.check("#clean")
    agrees(clean="true")
    web.page.check("#background")
    agrees(clean="true", background="true")
    web.page.uncheck("#clean")
    agrees(clean="false", background="true")
    web.page.evaluate("talk2dino.store.words.find((word) => word.name === 'grass').threshold = 0.7")
    web.page.evaluate("talk2dino.store.changed('labels')")
    agrees(clean="false", background="true", threshold=json.dumps({"grass": 0.7}))
    web.type_words("night sky", key="Shift+Enter")
    agrees(clean="false", background="true", threshold=json.dumps({"grass": 0.7}), negative="night sky")


def test_image_larger_than_the_screen(visit, service, segmenter):
    """Labels on the screen are those of every few pixels; exact ones are those of every pixel."""
    with Image.open(PICTURES / "harbour.png") as picture:
        large = picture.resize((2203, 1601))
    web = visit().open()
    content = io.BytesIO()
    large.save(content, "PNG")
    web.page.set_input_files("#file", {"name": "large.png", "mimeType": "image/png", "buffer": content.getvalue()})
    web.page.wait_for_selector("#toolbar", state="visible")
    web.type_words("water, grass, boat, ball, mushroom")
    shown = web.page.evaluate(
        "(() => { const { width, height } = talk2dino.engine.painter.read(); return [width, height]; })()"
    )
    assert shown == [1102, 801]
    expected = segmenter.segment(large, ["water", "grass", "boat", "ball", "mushroom"]).labels
    assert np.mean(web.labels() == expected + 1) >= 0.999


def test_elongated_image_is_labelled_by_the_server(visit, segmenter):
    """Such an image is segmented in windows, which only the server does."""
    with Image.open(PICTURES / "beach.png") as picture:
        strip = Image.fromarray(np.tile(np.asarray(picture.convert("RGB"))[100:120], (1, 3, 1))[:, :1423])
    content = io.BytesIO()
    strip.save(content, "PNG")
    web = visit().open()
    web.page.set_input_files("#file", {"name": "strip.png", "mimeType": "image/png", "buffer": content.getvalue()})
    web.page.wait_for_selector("#toolbar", state="visible")
    web.type_words("grass, car")
    web.page.wait_for_selector("#status:has-text('on the server in')")
    expected = segmenter.segment(strip, ["grass", "car"])
    assert expected.info["mode"] == "slide"
    assert np.mean(web.labels() == expected.labels + 1) >= 0.999


def test_image_wider_than_a_texture(visit, segmenter):
    """Such an image is labelled at every second pixel."""
    with Image.open(PICTURES / "beach.png") as picture:
        wide = picture.convert("RGB").resize((9001, 613))
    content = io.BytesIO()
    wide.save(content, "JPEG")
    web = visit().open()
    web.page.set_input_files("#file", {"name": "wide.jpg", "mimeType": "image/jpeg", "buffer": content.getvalue()})
    web.page.wait_for_selector("#toolbar", state="visible")
    assert web.page.evaluate("talk2dino.engine.painter.largest") == 8192
    web.type_words("grass, sand, car")
    expected = segmenter.segment(content.getvalue(), ["grass", "sand", "car"]).labels[1::2, 1::2]
    found = web.labels()
    assert found.shape == (307, 4501)
    assert np.mean(found[:306, :4500] == expected + 1) >= 0.999


def test_lost_graphics_context(visit):
    """The browser may take WebGL away; the masks come back with it."""
    web = visit().open()
    web.example("harbour")
    web.type_words("water, grass")
    before = web.labels()
    web.page.evaluate(
        """async () => { const lost = talk2dino.engine.painter.gl.getExtension("WEBGL_lose_context"); lost.loseContext();
        await new Promise((done) => setTimeout(done, 100)); lost.restoreContext(); }"""
    )
    web.page.wait_for_timeout(300)
    web.settle()
    assert np.array_equal(web.labels(), before)
    web.problems = [problem for problem in web.problems if "CONTEXT_LOST" not in problem]
