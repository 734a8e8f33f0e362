"""The page of ``talk2dino serve`` in headless Chromium: its figures, and the screenshots in docs/.

    python benchmarks/page.py                  # figures, about a minute
    python benchmarks/page.py --quick          # fewer repetitions
    python benchmarks/page.py --shots docs     # the screenshots only: docs/page-*.png

The service runs micro in float32 on loopback; WebGL2 is drawn in software (SwiftShader), and Chromium, its renderer and the
service share the machine. Needs the extras dev, serve and web, and Chromium (``make test-web`` installs them).
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

import talk2dino.server

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

from chromium import FLAGS, find_chromium  # noqa: E402
from webpage import PICTURES, PageUnderTest, running_service  # noqa: E402

PAGE = Path(talk2dino.server.__file__).parent / "page"
FONTS = Path(talk2dino.__file__).parent / "assets" / "fonts"
TWENTY = (
    "water, grass, boat, ball, mushroom, car, sand, tree, house, sky, fish, box, road, brick wall, wood floor, night sky, "
    "stone, snow, dog, cup"
)
NEW = (
    "zebra",
    "flower",
    "lamp",
    "river",
    "door",
    "window",
    "bird",
    "cloud",
    "bench",
    "bridge",
    "tower",
    "rock",
    "fence",
    "hat",
    "sun",
)

DRAG = """async (seconds) => {
  const slider = document.getElementById("threshold"), { engine } = talk2dino, from = engine.redraws, start = performance.now();
  slider.dispatchEvent(new PointerEvent("pointerdown"));
  for (let n = 0; performance.now() - start < 1000 * seconds; n++) {
    slider.value = 0.5 + 0.15 * Math.abs(((n % 100) - 50) / 50);
    slider.dispatchEvent(new Event("input"));
    await new Promise(requestAnimationFrame);
  }
  const labels = engine.painter.textures.labels.size, { width, height } = engine.painter.canvas;
  const rate = (1000 * (engine.redraws - from)) / (performance.now() - start);
  slider.dispatchEvent(new PointerEvent("pointerup"));
  return { rate, labels, canvas: [width, height] };
}"""

ENTER = """(name) => new Promise((done) => {
  const { store } = talk2dino, input = document.getElementById("word-input");
  const drawn = () => {
    if (!store.active.some((word) => word.name === name)) return;
    store.removeEventListener("drawn", drawn);
    done(performance.now() - start);
  };
  store.addEventListener("drawn", drawn);
  input.value = name;
  const start = performance.now();
  document.getElementById("word-form").requestSubmit();
})"""


@contextmanager
def opened_browser() -> Iterator[Any]:
    """Chromium with the package's font, which has Chinese letters."""
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    if path is None:
        raise SystemExit("no Chromium was found: python tests/helpers/chromium.py says what to install")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        fonts = Path(folder) / "fonts.conf"
        fonts.write_text(
            f'<?xml version="1.0"?><fontconfig><dir>{FONTS}</dir><include>/etc/fonts/fonts.conf</include>'
            f"<cachedir>{folder}</cachedir></fontconfig>"
        )
        browser = driver.chromium.launch(
            executable_path=path, args=list(FLAGS), env={**os.environ, "FONTCONFIG_FILE": str(fonts)}
        )
        try:
            yield browser
        finally:
            browser.close()


def open_page(browser: Any, address: str, **options: Any) -> PageUnderTest:
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, "locale": "en-GB", **options})
    return PageUnderTest(context.new_page(), address).open()


# --- figures -------------------------------------------------------------------------------------------------------------


def enlarged(name: str) -> bytes:
    """A bundled image at 640 x 480."""
    with Image.open(PICTURES / f"{name}.png") as picture:
        content = io.BytesIO()
        picture.convert("RGB").resize((640, 480)).save(content, "PNG")
    return content.getvalue()


def measure(browser: Any, address: str, quick: bool) -> list[tuple[str, str, str]]:
    """Rows of the table: what, measured, goal."""
    web = open_page(browser, address)
    web.page.set_input_files("#file", {"name": "harbour.png", "mimeType": "image/png", "buffer": enlarged("harbour")})
    web.page.wait_for_selector("#toolbar", state="visible")
    web.type_words(TWENTY)
    web.page.check("#background")
    web.settle()
    drags = [web.page.evaluate(DRAG, 2 if quick else 5) for _ in range(3)]
    rate = statistics.median(drag["rate"] for drag in drags)
    labels, canvas = ("{} x {}".format(*drags[-1][what]) for what in ("labels", "canvas"))
    web.settle()
    times = [web.page.evaluate(ENTER, name) for name in NEW[: 5 if quick else None]]
    size = sum(path.stat().st_size for path in PAGE.rglob("*") if path.is_file())
    return [
        ("redraws per second while a threshold is dragged", f"{rate:.0f} (labels {labels}, canvas {canvas})", ">= 30"),
        ("ms from Enter to the mask of a new word, median", f"{statistics.median(times):.0f}", "<= 150"),
        ("ms from Enter to the mask of a new word, largest", f"{max(times):.0f}", ""),
        ("KB of the page's code and assets", f"{size / 1000:.0f}", "<= 300"),
    ]


# --- screenshots ---------------------------------------------------------------------------------------------------------


def shoot(web: PageUnderTest, folder: Path, name: str) -> None:
    """Save what is on the screen as a palette PNG."""
    shot = Image.open(io.BytesIO(web.page.screenshot())).convert("RGB")
    path = folder / f"page-{name}.png"
    # Small areas such as the colours of the chips count as much as the image: half of the palette is theirs.
    flat = shot.crop((min(880, shot.width - 200), 0, shot.width, shot.height)).quantize(
        96, method=Image.Quantize.MAXCOVERAGE
    )
    rest = shot.quantize(160, method=Image.Quantize.MEDIANCUT)
    palette = Image.new("P", (1, 1))
    palette.putpalette((flat.getpalette() or [])[: 96 * 3] + (rest.getpalette() or [])[: 160 * 3])
    shot.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}  {shot.width} x {shot.height}, {path.stat().st_size / 1000:.0f} KB")


def point_at(web: PageUnderTest, x: float, y: float) -> None:
    """Click at a place of the image, given as shares of its size."""
    box = web.page.locator("#canvas").bounding_box()
    web.page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    web.page.mouse.move(5, 5)
    web.settle()


def refined(web: PageUnderTest) -> None:
    web.page.check("#refine")
    web.page.wait_for_selector("#status:has-text('Refined on the server')")
    web.settle()


def screenshots(browser: Any, address: str, folder: Path) -> None:
    web = open_page(browser, address)
    shoot(web, folder, "start")
    web.example("harbour")
    web.type_words("water, grass, boat=boat|sailing ship, ball, mushroom, car")
    refined(web)
    point_at(web, 0.42, 0.55)
    shoot(web, folder, "words")
    web.page.check("input[value=heads]")
    web.page.click(".head-table button:text-is('mushroom')")
    web.page.evaluate("scrollTo(0, 420)")
    web.settle()
    shoot(web, folder, "heads")
    web.page.check("input[value=compare]")
    web.page.wait_for_selector(".help:text-is('Computed on the server')")
    web.page.evaluate("scrollTo(0, 0)")
    web.page.mouse.move(5, 5)
    web.settle()
    shoot(web, folder, "wipe")

    phone = open_page(
        browser, address, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True, locale="zh-CN"
    )
    phone.example("dunes")
    phone.type_words("沙地，船，球，蘑菇")
    phone.page.wait_for_timeout(300)
    phone.page.evaluate("scrollTo(0, 0)")
    shoot(phone, folder, "phone")

    dark = open_page(browser, address, color_scheme="dark")
    dark.example("garden")
    dark.type_words("grass, water, house, tree, mushroom")
    dark.page.check("input[value=similar]")
    point_at(dark, 0.2, 0.35)
    shoot(dark, folder, "dark")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--shots", type=Path, metavar="FOLDER", help="make the screenshots instead")
    options = parser.parse_args()
    with running_service() as address, opened_browser() as browser:
        if options.shots:
            options.shots.mkdir(parents=True, exist_ok=True)
            screenshots(browser, address, options.shots)
            return
        print("| page, micro, 640 x 480, 20 words | measured | goal |\n|---|---|---|")
        for row in measure(browser, address, options.quick):
            print("| {} | {} | {} |".format(*row))


if __name__ == "__main__":
    main()
