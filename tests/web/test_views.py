"""Pointing at pixels, similar patches, heads, and the comparison of methods."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from webpage import PICTURES

#: Below a method whose result has come; while it is computed, another sentence stands there.
SERVED = ".help:text-is('Computed on the server')"
WORDS = ["water", "grass", "boat", "ball", "mushroom"]


@pytest.fixture
def harbour(web):
    web.example("harbour")
    web.type_words(", ".join(WORDS))
    return web


@pytest.fixture(scope="module")
def encoded(segmenter):
    return segmenter.encode_image(PICTURES / "harbour.png"), segmenter.encode_text(WORDS)


def point_at(web, x: int, y: int) -> None:
    """Move the pointer to the centre of a pixel of the 480 x 360 image."""
    box = web.page.locator("#canvas").bounding_box()
    web.page.mouse.move(box["x"] + (x + 0.5) / 480 * box["width"], box["y"] + (y + 0.5) / 360 * box["height"])
    web.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def bars(web) -> dict[str, float]:
    rows = web.page.locator(".bars li").all()
    return {row.locator(".name").text_content(): float(row.locator(".value").text_content()) for row in rows}


def test_bars_are_the_scores(harbour, segmenter, encoded):
    point_at(harbour, 211, 203)
    [full] = segmenter.decode(*encoded, clean=False, return_scores=True)
    found = bars(harbour)
    for name, expected in zip(WORDS, full.scores[:, 203, 211], strict=True):
        assert found[name] == pytest.approx(expected, abs=2e-3)
    assert next(iter(found)) == "mushroom"  # the largest first
    assert "x 211, y 203" in harbour.page.text_content("#panel")


def test_point_with_the_keyboard(harbour):
    harbour.page.focus("#canvas")
    harbour.page.keyboard.press("ArrowRight")
    first = harbour.page.text_content("#panel .place")
    harbour.page.keyboard.press("ArrowRight")
    second = harbour.page.text_content("#panel .place")
    column = [int(text.rsplit(" ", 1)[1]) for text in (first, second)]
    assert column[1] == column[0] + 1
    harbour.page.keyboard.press("Escape")
    assert harbour.page.is_hidden("#cross")


def test_a_click_keeps_the_point(harbour):
    point_at(harbour, 211, 203)
    harbour.page.mouse.down()
    harbour.page.mouse.up()
    kept = harbour.page.text_content("#panel .place")
    point_at(harbour, 60, 60)
    assert harbour.page.text_content("#panel .place") == kept


def test_similar_patches_light_up(harbour, encoded):
    features = torch.nn.functional.normalize(encoded[0].patches[0], dim=-1)
    harbour.page.check("input[value=similar]")
    point_at(harbour, 211, 203)
    patch = 203 * features.shape[0] // 360, 211 * features.shape[1] // 480
    similar = features @ features[patch]
    drawn = harbour.page.evaluate("Array.from(talk2dino.engine.painter.heatRange)")
    assert drawn == pytest.approx([float(similar.min()), float(similar.max())], abs=2e-3)
    bright = harbour.pixels().astype(float).mean(axis=2)
    h, w = similar.shape
    cells = bright[: bright.shape[0] // h * h, : bright.shape[1] // w * w]
    cells = cells.reshape(h, cells.shape[0] // h, w, -1).mean(axis=(1, 3))
    assert np.corrcoef(cells.ravel(), similar.numpy().ravel())[0, 1] > 0.6


def test_heads_and_the_selected_one(harbour, segmenter, encoded):
    from talk2dino.stages.pooling import head_embeddings

    image, text = encoded
    heads = head_embeddings(image.patches.flatten(1, 2), image.attention.flatten(2))[0]
    cosines = torch.nn.functional.normalize(heads, dim=-1) @ text.embeddings.T  # (M, N)
    harbour.page.check("input[value=heads]")
    for n, name in enumerate(WORDS):
        row = harbour.page.locator(f".head-table tr:has(button:text-is('{name}'))")
        shown = [float(cell) for cell in row.locator("td").all_text_contents()]
        assert shown == pytest.approx(cosines[:, n].tolist(), abs=0.0075)
        row.locator("button").click()
        best = int(cosines[:, n].argmax())
        assert harbour.page.locator(".head-card.best").get_attribute("data-key") == f"head-{best}"
        assert harbour.page.locator(f"[data-key=head-{best}]").get_attribute("aria-pressed") == "true"
    attention = image.attention[0, best].flatten().softmax(0)
    drawn = harbour.page.evaluate("Array.from(talk2dino.engine.painter.heatRange)")
    harbour.settle()
    drawn = harbour.page.evaluate("Array.from(talk2dino.engine.painter.heatRange)")
    assert drawn == pytest.approx([float(attention.min()), float(attention.max())], rel=1e-2)


def test_wipe_between_methods(harbour, segmenter):
    """Left of the boundary the pixels are those of one method, right of it those of the other."""
    own = harbour.pixels()
    harbour.page.check("input[value=compare]")
    harbour.page.wait_for_selector(SERVED)
    harbour.page.locator("#wipe").fill("0")
    harbour.settle()
    other = harbour.pixels()
    harbour.page.locator("#wipe").fill("0.5")
    harbour.settle()
    both = harbour.pixels()
    middle = own.shape[1] // 2
    left, right = slice(0, middle - 30), slice(middle + 30, -130)
    below = slice(60, None)  # the names of the methods stand above
    assert np.abs(both[below, left].astype(int) - own[below, left]).mean() < 1
    assert np.abs(both[below, right].astype(int) - other[below, right]).mean() < 1
    assert np.abs(own[below, right].astype(int) - other[below, right]).mean() > 5
    labels = harbour.page.evaluate("Array.from(talk2dino.engine.painter.read('otherLabels').labels)")
    expected = segmenter.with_method("clip-dense").segment(PICTURES / "harbour.png", WORDS).labels
    assert np.mean(np.reshape(labels, (360, 480)) == expected + 1) >= 0.999


def test_the_boundary_can_be_dragged(harbour):
    harbour.page.check("input[value=compare]")
    harbour.page.wait_for_selector(SERVED)
    box = harbour.page.locator("#canvas").bounding_box()
    y = box["y"] + box["height"] / 2
    harbour.page.mouse.move(box["x"] + box["width"] / 2, y)
    harbour.page.mouse.down()
    harbour.page.mouse.move(box["x"] + box["width"] / 4, y, steps=4)
    harbour.page.mouse.up()
    assert harbour.page.evaluate("talk2dino.store.wipe") == pytest.approx(0.25, abs=0.05)
    assert "left: 2" in harbour.page.get_attribute("#divider", "style")


def test_all_four_methods(harbour):
    harbour.page.check("input[value=compare]")
    assert harbour.page.locator("#method-right option").all_text_contents() == [
        "talk2dino", "clip-dense", "dino-clusters", "freeda",
    ]  # fmt: skip
    harbour.page.select_option("#method-right", "dino-clusters")
    harbour.page.wait_for_selector("#panel .legend li:has-text('segment 1')")
    harbour.page.select_option("#method-right", "freeda")
    harbour.page.wait_for_selector("#panel .message:has-text('talk2dino freeda build')")
    harbour.page.select_option("#method-left", "clip-dense")
    harbour.page.wait_for_selector(f".side-choice:has(#method-left) {SERVED}")
    assert harbour.page.text_content("#left-name") == "clip-dense"
    harbour.page.check("input[value=classes]")
    harbour.settle()
    assert harbour.page.is_hidden("#divider")
    assert harbour.labels()[120, 160] == 1  # the page's own labels are back
