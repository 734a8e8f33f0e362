"""Words by example: a box or a patch on the image becomes a word."""

from __future__ import annotations

import base64

import httpx
import numpy as np
import pytest
from webpage import PICTURES

from talk2dino.io.rle import decode_rle


def vector(web, name: str) -> np.ndarray:
    text = web.page.evaluate(
        "(name) => btoa(String.fromCharCode(...new Uint8Array(talk2dino.store.words.find((word) => word.name === name).vector.buffer)))",
        name,
    )
    return np.frombuffer(base64.b64decode(text), "<f4")


@pytest.mark.parametrize(("start", "end"), [((20, 20), (90, 80)), ((60, 40), (60, 40)), ((203, 5), (208, 9))])
def test_a_region_becomes_a_word(web, segmenter, start, end):
    """A box, a click, and a box within one patch give the vector of Segmenter.encode_examples."""
    web.example("harbour")
    web.type_words("water, grass")
    web.mark(start, end, "my ball")
    [region] = [
        one["region"]
        for one in web.page.evaluate("talk2dino.store.words.at(-1).examples.map(({ region }) => ({ region }))")
    ]
    given = region.get("box") or region["point"]
    if start == end:
        assert given == list(start)
    else:
        assert np.abs(np.subtract(given, (*start, *end))).max() <= 2
    expected = segmenter.encode_examples({"my ball": [(PICTURES / "harbour.png", given)]}).embeddings[0].numpy()
    assert vector(web, "my ball") @ expected > 0.9999
    assert web.page.text_content("[data-name='my ball'] .tag") == "by example"
    assert web.share("my ball") != "not found"
    assert web.page.get_attribute("#mark", "aria-pressed") == "false"


def test_examples_go_to_the_server(web, segmenter):
    """Refined on the server, they give what Python gives."""
    web.example("harbour")
    web.type_words("water, grass, ball")
    web.mark((20, 20), (90, 80), "ball")  # the word and the example are averaged
    web.mark((200, 140), (280, 170), "cap")
    web.mark((300, 40), (340, 60), "cap")
    web.page.check("#refine")
    web.page.wait_for_selector("#status:has-text('Refined on the server')")
    asked = web.request()
    assert list(asked["prompts"]) == ["water", "grass", "ball"]
    assert [len(regions) for regions in asked["examples"].values()] == [1, 2]
    image = PICTURES / "harbour.png"
    shown = {name: [(image, region["box"]) for region in regions] for name, regions in asked["examples"].items()}
    words = segmenter.encode_text(asked["prompts"]) + segmenter.encode_examples(shown)
    expected = segmenter.segment(image, words, refine=True, clean=False)
    names = web.page.evaluate("talk2dino.engine.slots.left.classes.map(({ name }) => name)")
    assert np.mean(np.array(names)[web.labels() - 1] == np.array(expected.names)[expected.labels]) >= 0.999
    web.page.uncheck("#refine")
    web.settle()
    plain = segmenter.segment(image, words, clean=False)
    own = web.page.evaluate("talk2dino.store.active.map(({ name }) => name)")
    assert np.mean(np.array(own)[web.labels() - 1] == np.array(plain.names)[plain.labels]) >= 0.999


def test_example_from_another_image(web, service):
    """An example stays a word on the next image; the server is sent the image that it comes from."""
    web.example("harbour")
    web.mark((20, 20), (90, 80), "ball")
    first = web.page.evaluate("talk2dino.store.image.id")
    web.page.set_input_files("#file", PICTURES / "dunes.png")
    web.wait("talk2dino.store.image.name === 'dunes.png'")
    web.type_words("sand")
    asked = web.request()
    assert asked["examples"]["ball"][0]["image"] == first
    second = web.page.evaluate("talk2dino.store.image.id")
    answer = httpx.post(f"{service}/v1/images/{second}/segment", json=asked, timeout=60).raise_for_status().json()
    ball = next(row for row in answer["annotations"] if answer["names"][row["category_id"]] == "ball")
    own = web.page.evaluate("talk2dino.store.active.findIndex(({ name }) => name === 'ball')") + 1
    assert np.mean((web.labels() == own) == decode_rle(ball["segmentation"])) >= 0.999


def test_with_the_keyboard_and_cancelled(web):
    web.example("harbour")
    web.page.click("#mark")
    web.page.keyboard.press("ArrowLeft")
    web.page.keyboard.press("Enter")
    web.page.wait_for_selector("#example-dialog", state="visible")
    web.page.keyboard.press("Escape")
    assert web.page.evaluate("talk2dino.store.words.length") == 0
    web.page.focus("#canvas")
    web.page.keyboard.press("Enter")
    web.page.wait_for_selector("#example-dialog", state="visible")
    web.page.keyboard.type("sea")
    web.page.keyboard.press("Enter")
    web.settle()
    assert web.page.evaluate("talk2dino.store.words.map((word) => word.name)") == ["sea"]
    assert web.share("sea") == "100 %"
