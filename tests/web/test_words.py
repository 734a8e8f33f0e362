"""The chips: synonyms, negatives, colours, thresholds, switches, shares."""

from __future__ import annotations

import numpy as np
import pytest

WORDS = "water, grass, boat, ball, mushroom=mushroom|toadstool"


@pytest.fixture
def harbour(web):
    web.example("harbour")
    web.type_words(WORDS)
    return web


def test_shares_and_not_found(harbour):
    harbour.type_words("fish")
    labels = harbour.labels()
    assert harbour.share("water") == f"{100 * np.mean(labels == 1):.0f} %"
    assert harbour.share("fish") == "not found"
    assert harbour.page.text_content("[data-name=mushroom] .detail") == "mushroom · toadstool"


def test_one_request_for_new_words(harbour):
    before = len(harbour.requests)
    harbour.type_words("car, road")
    asked = harbour.requests[before:]
    assert [request.split("/", 3)[3] for request in asked] == ["v1/text"]
    harbour.page.click("[data-name=car] [aria-label='Remove car']")
    harbour.type_words("car")
    assert len(harbour.requests) == before + 1  # its vector is known


def test_colour_changes_the_pixels(harbour):
    canvas = harbour.pixels()
    y, x = canvas.shape[0] // 3, canvas.shape[1] // 3  # water
    assert harbour.labels()[120, 160] == 1
    harbour.page.fill("[data-name=water] .colour", "#ff0000")
    harbour.settle()
    after = harbour.pixels()
    image, red = canvas[y, x].astype(int), after[y, x].astype(int)
    assert red[0] > image[0] + 60
    assert red[2] < image[2] - 60


def test_similar_colours_are_told_apart(web):
    """Words whose colours look alike, also to colour-blind eyes, get others."""
    web.example("harbour")
    web.type_words(", ".join(f"thing {n}" for n in range(41)))
    least = web.page.evaluate(
        """async () => { const { difference } = await import("/static/js/palette.js");
        const colours = talk2dino.store.words.map((word) => word.colour);
        const apart = (some) => some.flatMap((one, n) => some.slice(0, n).map((other) => difference(one, other)));
        return [Math.min(...apart(colours.slice(0, 12))), Math.min(...apart(colours))]; }"""
    )
    assert least[0] >= 0.05  # the first twelve
    assert least[1] >= 0.015  # no colour twice


def test_switch_off_and_on(harbour):
    harbour.page.uncheck("[data-name=water] .eye")
    harbour.settle()
    assert harbour.share("water") == ""
    assert "water" not in harbour.request()["prompts"]
    assert harbour.labels()[120, 160] != 0
    for name in ("grass", "boat", "ball", "mushroom"):
        harbour.page.uncheck(f"[data-name={name}] .eye")
    assert harbour.page.text_content("#no-words") == "All words are switched off."
    harbour.page.check("[data-name=water] .eye")
    harbour.settle()
    assert harbour.share("water") == "100 %"


def test_remove_and_undo(harbour):
    names = "talk2dino.store.words.map((word) => word.name)"
    before = harbour.page.evaluate(names)
    harbour.page.click("[aria-label='Remove boat']")
    assert harbour.page.evaluate(names) == [name for name in before if name != "boat"]
    harbour.page.click("#toast button")
    assert harbour.page.evaluate(names) == before
    harbour.page.click("[aria-label='Remove ball']")
    harbour.page.locator("#background").focus()
    harbour.page.keyboard.press("Control+z")
    assert harbour.page.evaluate(names) == before


def test_background_and_thresholds(harbour):
    assert (harbour.labels() > 0).all()
    harbour.page.check("#background")
    assert harbour.page.is_checked("#clean")  # on with a background, as on the command line
    slider = harbour.page.locator("#threshold")
    assert float(slider.input_value()) == pytest.approx(0.58)
    harbour.settle()
    some = np.mean(harbour.labels() == 0)
    slider.fill("0.66")
    harbour.settle()
    assert np.mean(harbour.labels() == 0) > some
    assert harbour.request()["background"] == pytest.approx(0.66)
    harbour.page.click("[data-name=water] .more")
    harbour.page.check("[data-name=water] .settings input >> nth=0")
    harbour.page.locator("[data-name=water] input[type=range]").fill("0.4")
    harbour.settle()
    assert harbour.request()["threshold"] == {"water": pytest.approx(0.4)}
    assert harbour.labels()[120, 160] == 1


def test_negative_words(harbour):
    harbour.page.fill("#word-input", "brick wall")
    harbour.page.click("#add-negative")
    harbour.settle()
    assert harbour.page.text_content("[data-name='brick wall'] .tag") == "not wanted"
    assert harbour.request()["negative"] == {"brick wall": ["brick wall"]}
    harbour.page.click("[data-name=water] .more")
    harbour.page.check("[data-name=water] .settings input >> nth=2")
    harbour.settle()
    assert harbour.labels()[120, 160] == 0  # what was water is background


def test_synonyms_can_be_edited(harbour):
    vector = "Array.from(talk2dino.store.words.find((word) => word.name === 'boat').vector)"
    before = harbour.page.evaluate(vector)
    harbour.page.click("[data-name=boat] .more")
    harbour.page.fill("[data-name=boat] input[type=text]", "boat|sailing ship")
    harbour.page.press("[data-name=boat] input[type=text]", "Tab")
    harbour.settle()
    assert harbour.request()["prompts"]["boat"] == ["boat", "sailing ship"]
    assert harbour.page.text_content("[data-name=boat] .detail") == "boat · sailing ship"
    assert 0.3 < np.dot(harbour.page.evaluate(vector), before) < 0.9999


def test_chinese_words(web, segmenter):
    web.example("harbour")
    web.type_words("水面，草地、船；球=球|皮球")
    found = web.page.evaluate("talk2dino.store.words.map((word) => [word.name, word.synonyms])")
    assert found == [["水面", []], ["草地", []], ["船", []], ["球", ["球", "皮球"]]]
    assert web.share("水面") != "not found"


def test_bad_words_are_explained(harbour):
    harbour.type_words("!!!, car")
    assert "no letter" in harbour.page.text_content("[data-name='!!!'] .detail")
    assert harbour.page.evaluate("Boolean(talk2dino.store.words.find((word) => word.name === 'car').vector)")
    assert "!!!" not in harbour.request()["prompts"]


def test_refinement_on_the_server(harbour, segmenter):
    from webpage import PICTURES

    plain = harbour.labels()
    harbour.page.check("#refine")
    harbour.page.wait_for_selector("#status:has-text('Refined on the server')")
    refined = harbour.labels()
    expected = segmenter.segment(
        PICTURES / "harbour.png", harbour.request()["prompts"], refine=True, clean=False
    ).labels
    assert np.mean(refined == expected + 1) >= 0.999
    assert np.mean(plain == refined) < 0.999
    harbour.page.check("#background")
    assert "Let go to refine" in harbour.page.text_content("#status") or "Refin" in harbour.page.text_content("#status")
    harbour.page.wait_for_selector("#status:has-text('Refined on the server')")


def test_held_slider_waits_with_refinement(harbour):
    harbour.page.check("#background")
    harbour.page.check("#refine")
    harbour.page.wait_for_selector("#status:has-text('Refined on the server')")
    box = harbour.page.locator("#threshold").bounding_box()
    y = box["y"] + box["height"] / 2
    harbour.page.mouse.move(box["x"] + box["width"] * 0.71, y)
    harbour.page.mouse.down()
    before = len(harbour.requests)
    for share in (0.6, 0.5, 0.4):
        harbour.page.mouse.move(box["x"] + box["width"] * share, y)
    harbour.page.wait_for_timeout(900)  # longer than the wait before a refinement
    assert len(harbour.requests) == before
    assert "Preview without refinement" in harbour.page.text_content("#status")
    harbour.page.mouse.up()
    harbour.page.wait_for_selector("#status:has-text('Refined on the server')")
    assert len(harbour.requests) == before + 1


def test_nothing_is_drawn_when_nothing_changes(harbour):
    """Also not after a drag that was too slow to be drawn with all pixels."""
    harbour.page.check("#background")
    coarse = harbour.page.evaluate(
        """async () => { const slider = document.getElementById("threshold"); let coarse = false;
        for (let step = 0; step < 20; step++) {
          const start = performance.now(); while (performance.now() < start + 60); // a slow machine
          slider.value = 0.5 + step / 100; slider.dispatchEvent(new Event("input"));
          await new Promise(requestAnimationFrame); coarse ||= talk2dino.engine.coarse;
        } return coarse; }"""
    )
    assert coarse
    harbour.page.wait_for_timeout(600)
    harbour.settle()
    assert harbour.labels().shape == (360, 480)
    harbour.settle()
    before = harbour.page.evaluate("talk2dino.engine.redraws")
    harbour.page.wait_for_timeout(700)
    assert harbour.page.evaluate("talk2dino.engine.redraws") == before
    assert harbour.page.evaluate("talk2dino.engine.painter.textures.labels.size") == [480, 360]


def test_what_a_word_is_understood_as(web):
    """How the service understood a word stands beside it."""

    def answer(route):
        reply = route.fetch()
        route.fulfill(response=reply, json={**reply.json(), "understood": [["斑马线", "zebra crossing", "glossary"]]})

    web.page.route("**/v1/text", answer)
    web.example("beach")
    web.type_words("斑马线, grass")
    assert web.page.text_content("[data-name='斑马线'] .detail") == "understood as zebra crossing (glossary)"
    assert web.page.is_hidden("[data-name=grass] .detail")
