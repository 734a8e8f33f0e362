"""For everybody: light and dark, phone, keyboard, screen reader, two languages; and within bounds."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import talk2dino.server

PAGE = Path(talk2dino.server.__file__).parent / "page"


def violations(web) -> list[str]:
    """What axe-core finds, one line per rule; it is brought by axe-playwright-python."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(web.page).response["violations"]
    return [f"{one['id']}: {one['help']}: {[node['html'][:90] for node in one['nodes']][:3]}" for one in found]


def fill(web) -> None:
    web.example("harbour")
    web.type_words("water, grass, boat=boat|ship, fish")
    web.type_words("sky", key="Shift+Enter")
    web.page.check("#background")
    web.page.click("[data-name=boat] .more")
    web.settle()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(visit, theme):
    web = visit(color_scheme=theme).open()
    assert violations(web) == []
    fill(web)
    web.page.focus("#canvas")
    web.page.keyboard.press("ArrowLeft")
    web.page.wait_for_timeout(300)
    for view in ("classes", "similar", "heads", "compare"):
        web.page.check(f"input[value={view}]")
        web.settle()
        assert violations(web) == [], view
    web.page.click("#code")
    assert violations(web) == []


def test_theme_follows_the_system_and_can_be_switched(visit):
    web = visit(color_scheme="dark").open()
    background = "getComputedStyle(document.body).backgroundColor"
    dark = web.page.evaluate(background)
    web.page.click("#theme")
    light = web.page.evaluate(background)
    assert [sum(map(int, text[4:-1].split(","))) > 380 for text in (dark, light)] == [False, True]
    web.page.reload()
    assert web.page.evaluate(background) == light


def test_phone(visit):
    """At 360 pixels nothing sticks out, and fingers find their targets."""
    web = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, device_scale_factor=2).open()
    fill(web)
    assert web.page.evaluate("document.documentElement.scrollWidth") <= 360
    for view in ("similar", "heads", "compare", "classes"):
        web.page.check(f"input[value={view}]")
        web.settle()
        assert web.page.evaluate("document.documentElement.scrollWidth") <= 360, view
    box = web.page.locator("#canvas").bounding_box()
    web.page.touchscreen.tap(box["x"] + 100, box["y"] + 100)
    web.page.wait_for_selector(".bars li")
    assert violations(web) == []


def test_with_the_keyboard_alone(web):
    """Tab reaches everything in order: open an example, type words, switch on the background, remove a word."""
    page = web.page

    def tab_to(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"Tab does not reach {selector}")

    tab_to("#gallery li:nth-child(2) button")
    page.keyboard.press("Enter")
    web.wait("document.activeElement.id === 'word-input'")  # the next thing to do
    page.keyboard.type("water, boat")
    page.keyboard.press("Enter")
    web.settle()
    tab_to("#background")
    page.keyboard.press("Space")
    assert page.evaluate("talk2dino.store.background")
    tab_to("#threshold")
    before = page.evaluate("talk2dino.store.threshold")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("talk2dino.store.threshold") != before
    page.focus("[data-name=water] .more")
    page.keyboard.press("Enter")
    assert page.get_attribute("[data-name=water] .more", "aria-expanded") == "true"
    page.focus("[aria-label='Remove boat']")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "word-input"  # not lost with the removed chip
    page.focus("input[name=view]:checked")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("talk2dino.store.view") == "similar"


def test_chinese_interface(visit):
    web = visit(locale="zh-CN").open()
    assert web.page.text_content("#words-title") == "词语"
    assert web.page.get_attribute("html", "lang") == "zh-CN"
    fill(web)
    assert web.share("fish") == "未找到"
    web.page.check("input[value=heads]")
    assert "注意力头" in web.page.text_content("#panel")
    assert violations(web) == []
    web.page.click("#language")
    assert web.page.text_content("#words-title") == "Words"
    assert web.share("fish") == "not found"
    assert "Attention heads" in web.page.text_content("#panel")
    web.page.reload()
    assert web.page.text_content("#words-title") == "Words"


def test_every_text_has_both_languages(web):
    english, chinese = web.page.evaluate(
        """async () => { const { TEXTS } = await import("/static/js/text.js"); return [TEXTS.en, TEXTS.zh]; }"""
    )
    assert english.keys() == chinese.keys()
    assert len(english) > 80
    same = {key for key in english if english[key] == chinese[key]}
    assert same <= {"title", "cocoJson", "npz", "failed"}
    used = web.page.evaluate("[...document.querySelectorAll('[data-t]')].map((element) => element.dataset.t)")
    assert set(used) <= english.keys()


def test_masks_are_seen_on_the_screen(web):
    """Pixels: the colours of the words lie where their labels are."""
    web.example("harbour")
    plain = web.pixels().astype(int)
    web.type_words("water, mushroom")
    web.page.locator("#opacity").fill("1")
    web.settle()
    painted, labels = web.pixels().astype(int), web.labels()
    colours = web.page.evaluate("talk2dino.store.words.map((word) => word.colour)")
    for (y, x), label in (((100, 160), 1), ((200, 210), 2)):
        assert labels[y, x] == label
        place = y * painted.shape[0] // 360, x * painted.shape[1] // 480
        assert np.abs(painted[place] - colours[label - 1]).max() <= 2
        assert np.abs(painted[place] - plain[place]).max() > 10


def test_size_and_origin():
    """At most 300 KB, no other address, nothing inline."""
    files = [path for path in PAGE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 300_000
    text = "".join(path.read_text(encoding="utf-8") for path in files if path.suffix in (".html", ".css", ".js"))
    assert "https://" not in text
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert "style=" not in html
    assert "<script>" not in html
    assert not re.search(r"\son\w+=", html)
