"""A service with micro on loopback, and the gestures of somebody who uses its page."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import numpy as np

PICTURES = Path(__file__).parents[2] / "examples" / "pictures"


@contextmanager
def running_service(*arguments: str) -> Iterator[str]:
    """``talk2dino serve`` with micro in float32; its address."""
    command = [
        sys.executable,
        "-m",
        "talk2dino",
        "serve",
        "--model",
        "micro",
        "--dtype",
        "float32",
        "--port",
        "0",
        *arguments,
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as log:  # not a pipe: the service writes a line per request
        process = subprocess.Popen(command, stderr=log, env=environment)
        try:
            yield _address(process, log)
        finally:
            process.terminate()
            process.wait(30)


def _address(process: subprocess.Popen[bytes], log: IO[str]) -> str:
    """Where a service listens, once it is ready."""
    for _ in range(1200):
        log.seek(0)
        said = log.read()
        assert process.poll() is None, f"the service ended: {said}"
        if "listening on " in said:
            address = said.split("listening on ")[1].split()[0].rstrip("/")
            if httpx.get(f"{address}/ready").status_code == 200:
                return address
        time.sleep(0.1)
    raise AssertionError(f"the service is not ready after two minutes: {said}")


class PageUnderTest:
    """The page, with gestures that several tests need."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.problems: list[str] = []
        self.requests: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("console", lambda message: self._said(message))
        page.on("request", lambda request: self.requests.append(f"{request.method} {request.url}"))

    def _said(self, message: Any) -> None:
        if (
            message.type in ("error", "warning") and "status of" not in message.text
        ):  # refused requests are shown as sentences
            self.problems.append(f"console: {message.text}")

    def open(self) -> PageUnderTest:
        self.page.goto(self.address)
        self.page.wait_for_selector("html[data-ready=yes]")
        return self

    def example(self, name: str) -> None:
        """Open a bundled image."""
        self.page.click(f"#gallery button:has-text('{name}')")
        self.page.wait_for_selector("#toolbar", state="visible")

    def type_words(self, text: str, key: str = "Enter") -> None:
        """Type words and wait until their vectors are there and drawn."""
        self.page.fill("#word-input", text)
        self.page.press("#word-input", key)
        self.settle()

    def settle(self) -> None:
        """Wait until all words have vectors and the picture and the shares are up to date."""
        self.wait("talk2dino.store.words.every((word) => word.vector || word.error)")
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        self.wait("!talk2dino.engine.coarse && !talk2dino.engine.waiting")
        self.page.evaluate("talk2dino.engine.count()")

    def mark(self, start: tuple[int, int], end: tuple[int, int], name: str) -> None:
        """Drag from one pixel of a 480 x 360 image to another, or click where both are the same, and name what is there."""
        self.page.click("#mark")
        box = self.page.locator("#canvas").bounding_box()

        def place(x: int, y: int) -> tuple[float, float]:
            return box["x"] + (x + 0.5) / 480 * box["width"], box["y"] + (y + 0.5) / 360 * box["height"]

        self.page.mouse.move(*place(*start))
        self.page.mouse.down()
        if start != end:
            self.page.mouse.move(*place(*end), steps=5)
            assert self.page.is_visible("#box")
        self.page.mouse.up()
        self.page.wait_for_selector("#example-dialog", state="visible")
        self.page.keyboard.type(name)
        self.page.keyboard.press("Enter")
        self.settle()

    def wait(self, expression: str, seconds: float = 20) -> None:
        """Wait until an expression is true in the page; Playwright's own way needs eval, which the page forbids."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, f"still not true after {seconds} s: {expression}"
            self.page.wait_for_timeout(20)

    def labels(self) -> np.ndarray:
        """(H, W) labels that the page has found; 0 is the background or no class."""
        width, height, data = self.page.evaluate(
            """() => { const { labels, width, height } = talk2dino.engine.exactLabels();
            const bytes = new Uint8Array(labels.buffer); let text = "";
            for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
            return [width, height, btoa(text)]; }"""
        )
        return np.frombuffer(base64.b64decode(data), "<u2").reshape(height, width)

    def request(self) -> dict[str, Any]:
        """The body of the request that should give the same labels."""
        return self.page.evaluate("talk2dino.store.request()")

    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8: what is on the screen where the image is."""
        from PIL import Image

        return np.asarray(Image.open(io.BytesIO(self.page.locator("#canvas").screenshot())).convert("RGB"))

    def share(self, name: str) -> str:
        """The area share that stands beside a word."""
        return self.page.text_content(f"[data-name='{name}'] .share")
