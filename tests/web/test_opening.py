"""Ways to open an image, and what is said when something is wrong."""

from __future__ import annotations

import base64
import time

import httpx
import numpy as np
import pytest
from webpage import PICTURES, running_service

OPENED = "Boolean(talk2dino.store.image)"


def sent(name: str) -> str:
    return base64.b64encode((PICTURES / name).read_bytes()).decode()


@pytest.mark.parametrize("gesture", ["drop", "paste"])
def test_drop_and_paste(web, gesture):
    """The browser's own events with a real file in them."""
    events = {
        "drop": "for (const kind of ['dragenter', 'dragover', 'drop']) document.getElementById('stage').dispatchEvent("
                "new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));",
        "paste": "document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true }));",
    }  # fmt: skip
    web.page.evaluate(
        """async ([content, name]) => { const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
        const data = new DataTransfer(); data.items.add(new File([bytes], name, { type: "image/png" })); EVENTS }""".replace(
            "EVENTS", events[gesture]
        ),
        [sent("beach.png"), "my beach.png"],
    )
    web.wait(OPENED)
    assert web.page.is_hidden("#curtain")
    assert web.page.evaluate("[talk2dino.store.image.name, talk2dino.store.image.width]") == ["my beach.png", 480]
    assert web.page.is_hidden("#empty")


def test_choose_a_file(web):
    with web.page.expect_file_chooser() as chooser:
        web.page.click("#open")
    chooser.value.set_files(PICTURES / "garden.png")
    web.wait(OPENED)
    web.page.wait_for_selector("#status:has-text('garden.png, 480 x 360')")


def test_bundled_example_brings_its_words(web):
    web.example("harbour")
    web.page.click("#tries button:has-text('boat')")
    web.settle()
    assert web.page.is_hidden("#tries button:has-text('boat')")
    assert web.share("boat") == "100 %"


def test_rotated_photograph(web, tmp_path, segmenter):
    """The page shows and labels an image with a rotation in its EXIF data upright."""
    from PIL import Image

    with Image.open(PICTURES / "beach.png") as picture:
        turned = picture.convert("RGB").rotate(90, expand=True)
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees clockwise
        turned.save(tmp_path / "turned.jpg", quality=95, exif=exif)
    web.page.set_input_files("#file", tmp_path / "turned.jpg")
    web.wait(OPENED)
    web.type_words("grass, sand, car")
    expected = segmenter.segment(tmp_path / "turned.jpg", ["grass", "sand", "car"]).labels
    assert expected.shape == (360, 480)
    assert np.mean(web.labels() == expected + 1) >= 0.999
    shown = web.page.evaluate("[talk2dino.store.image.bitmap.width, talk2dino.store.image.bitmap.height]")
    assert shown == [480, 360]


def test_not_an_image(web, tmp_path):
    (tmp_path / "letter.txt").write_text("not an image")
    web.page.set_input_files("#file", tmp_path / "letter.txt")
    assert web.page.text_content("#error") == "letter.txt is not an image."
    (tmp_path / "broken.png").write_bytes((PICTURES / "beach.png").read_bytes()[:999])
    web.page.set_input_files("#file", tmp_path / "broken.png")
    web.page.wait_for_selector("#error:has-text('broken.png')")  # the sentence of the service
    assert "truncated" in web.page.text_content("#error")
    assert web.page.is_visible("#empty")
    web.example("beach")
    assert web.page.is_hidden("#error")


def test_loading_is_shown(visit):
    web = visit()
    answers = iter([None, "loading the model"])

    def answer(route):
        step = next(answers, "done")
        if step == "done":
            route.fallback()
        elif step is None:
            route.abort()
        else:
            route.fulfill(status=503, json={"status": "loading", "step": step})

    web.page.route("**/ready", answer)
    web.page.goto(web.address)
    web.page.wait_for_selector("#status:has-text('The service cannot be reached')")
    web.page.wait_for_selector("#status:has-text('The model is loading: loading the model')")
    web.page.wait_for_selector("html[data-ready=yes]")
    web.problems = [problem for problem in web.problems if "ERR_FAILED" not in problem]


def test_expired_session_is_encoded_again(web):
    web.example("harbour")
    web.type_words("water, boat")
    before = web.page.evaluate("talk2dino.store.image.id")
    assert httpx.delete(f"{web.address}/v1/images/{before}").status_code == 204
    web.page.check("#refine")
    web.page.wait_for_selector("#status:has-text('Refined on the server')")
    assert web.page.evaluate("talk2dino.store.image.id") != before
    assert web.page.is_hidden("#error")


def test_token_is_asked_for_once(visit):
    with running_service("--token", "a-word-only-we-know") as address:
        web = visit(address)
        web.page.goto(address)
        web.page.wait_for_selector("#token-dialog", state="visible")
        web.page.fill("#token", "wrong")
        web.page.press("#token", "Enter")
        web.page.wait_for_selector("#token-wrong", state="visible")
        web.page.fill("#token", "a-word-only-we-know")
        web.page.press("#token", "Enter")
        web.page.wait_for_selector("html[data-ready=yes]")
        web.example("beach")
        web.type_words("grass")
        assert web.share("grass") == "100 %"
        assert web.page.evaluate("Object.keys(localStorage).some((key) => key.includes('token'))") is False
        web.page.reload()
        web.page.wait_for_selector("html[data-ready=yes]")  # kept for this tab
        assert web.page.is_hidden("#token-dialog")


def test_full_service_is_asked_again(web):
    """503 with Retry-After: the page waits and asks again, and only then says what is wrong."""
    web.example("beach")
    full = {"title": "Full", "status": 503, "detail": "64 requests are being answered"}
    answers = iter([full])

    def answer(route):
        problem = next(answers, None)
        if problem is None:
            return route.fallback()
        return route.fulfill(
            status=503, headers={"Retry-After": "1"}, content_type="application/problem+json", json=problem
        )

    web.page.route("**/v1/text", answer)
    web.type_words("grass")
    assert web.share("grass") == "100 %"
    answers = iter([full] * 9)
    web.type_words("sand")
    assert web.page.text_content("[data-name=sand] .detail") == "64 requests are being answered"


def test_image_is_forgotten_with_the_page(web):
    web.example("beach")
    id = web.page.evaluate("talk2dino.store.image.id")
    assert httpx.get(f"{web.address}/v1/images/{id}/picture").status_code == 200
    web.page.goto("about:blank")
    end = time.monotonic() + 10
    while httpx.get(f"{web.address}/v1/images/{id}/picture").status_code != 404:
        assert time.monotonic() < end
        time.sleep(0.1)
