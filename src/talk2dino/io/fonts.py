"""Draw text on images: with the bundled font, an installed font for characters that it lacks, and a box for the rest."""

from __future__ import annotations

import bisect
import contextlib
import functools
import io
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from importlib import resources

from PIL import Image, ImageDraw, ImageFont

from talk2dino.io.palette import Colour

ELLIPSIS = "..."  # Chinese fonts put the one-character ellipsis at half height
_BUNDLED = "assets/fonts/talk2dino-sans.otf"
_PROBE = 24  # font size at which glyphs are looked for
_BITMAP_SIZE = 109  # the one size of Noto Color Emoji
_FALLBACKS = (  # looked up by Pillow in the system's font folders, best first
    "NotoEmoji-Regular", "Symbola", "NotoSansSymbols-Regular", "NotoSansSymbols2-Regular", "seguisym", "seguiemj",
    "Apple Symbols", "NotoColorEmoji", "NotoSansCJK-Regular", "PingFang", "msyh", "malgun", "AppleSDGothicNeo",
    "wqy-microhei", "wqy-zenhei", "DroidSansFallbackFull", "DejaVuSans", "Arial Unicode", "unifont", "NotoSans-Regular",
    "NotoSansArabic-Regular", "NotoSansDevanagari-Regular", "NotoSansThai-Regular", "NotoSansHebrew-Regular", "arial",
    "FreeSans",
)  # fmt: skip


@functools.lru_cache(maxsize=4096)
def text_width(text: str, size: int) -> float:
    """Width of a line of text in pixels."""
    return sum(_advance(font, run, size) for font, run in _runs(text, size))


def ellipsise(text: str, size: int, width: float) -> str:
    """The text if it fits into ``width`` pixels, else the longest beginning that fits with an ellipsis."""
    text = clean(text)
    if text_width(text, size) <= width:
        return text
    most = min(len(text), int(width) + 1)  # no character is narrower than a pixel
    shown = _longest(most, lambda count: text_width(text[:count].rstrip() + ELLIPSIS, size) <= width)
    return text[:shown].rstrip() + ELLIPSIS


def fit_names(head: str, names: Sequence[str], size: int, width: float, lines: int) -> list[str]:
    """Lines of ``"head: a, b, c, and 120 more"``: as many whole names as fit into ``lines`` lines of ``width`` pixels."""
    if not names:
        return []
    most = min(len(names), int(lines * width / size) + 1)
    shown = _longest(most, lambda count: len(_name_lines(head, names, count, size, width)) <= lines)
    return [ellipsise(line, size, width) for line in _name_lines(head, names, shown, size, width)[:lines]]


def _longest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest count from 0 to ``most`` that fits, if all smaller ones do."""
    return bisect.bisect_left(range(1, most + 1), True, key=lambda count: not fits(count))


def _name_lines(head: str, names: Sequence[str], shown: int, size: int, width: float) -> list[str]:
    """The list with its first ``shown`` names, broken between names."""
    parts = [clean(name) for name in names[:shown]] + [f"and {len(names) - shown} more"] * (shown < len(names))
    broken, used = [f"{head}:"], text_width(f"{head}:", size)
    space = text_width("a a", size) - text_width("aa", size)
    for number, part in enumerate(parts):
        part += "," * (number < len(parts) - 1)
        needed = text_width(part, size)
        if used + space + needed <= width or number == 0:
            broken[-1] += f" {part}"
            used += space + needed
        else:
            broken.append(part)
            used = needed
    return broken


def draw_text(
    image: Image.Image, position: tuple[float, float], text: str, size: int, fill: Colour, *,
    halo: Colour | None = None, halo_width: int = 0,
) -> None:  # fmt: skip
    """Draw one line on an RGB image. ``position`` is the left end of its base line; the halo is drawn under all of it."""
    draw = ImageDraw.Draw(image)
    for colour, stroke in ((halo, halo_width), (fill, 0)):
        if colour is None:
            continue
        x, y = position
        for font, run in _runs(text, size):
            if font is None:  # a frame as high as a capital letter
                left, top, right = x + 0.12 * size - stroke, y - 0.74 * size - stroke, x + 0.78 * size + stroke
                line = max(1, size // 14) + 2 * stroke
                draw.rectangle((left, top, right, y + stroke), outline=colour, width=line)
            elif _is_bitmap(font):
                _paste_bitmap(image, font, run, x, y, size)
            else:
                draw.text((x, y), run, font=font, fill=colour, anchor="ls", stroke_width=stroke)
            x += _advance(font, run, size)


def clean(text: str) -> str:
    """One line without characters that have no shape: controls, joiners, variation selectors, lone surrogates."""
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    return "".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cf", "Cs") and c not in "\ufe0e\ufe0f")


def _runs(text: str, size: int) -> Iterator[tuple[ImageFont.FreeTypeFont | None, str]]:
    """Split into runs of one font; None for characters that no font has, one at a time."""
    current: ImageFont.FreeTypeFont | None = None
    run = ""
    for character in clean(text):
        source = _source_of(character)
        if source is None and (base := unicodedata.normalize("NFKD", character)[0]) != character:
            source, character = _source_of(base), base  # without its accent rather than a box
        font = None if source is None else _font(source, size)
        if run and (font is not current or font is None):
            yield current, run
            run = ""
        current = font
        run += character
    if run:
        yield current, run


def _advance(font: ImageFont.FreeTypeFont | None, run: str, size: int) -> float:
    if font is None:
        return 0.9 * size
    return font.getlength(run) * (size / _BITMAP_SIZE if _is_bitmap(font) else 1)


def _paste_bitmap(image: Image.Image, font: ImageFont.FreeTypeFont, run: str, x: float, y: float, size: int) -> None:
    """Draw colour emoji at the only size of their font and scale them down."""
    stamp = Image.new("RGBA", (max(1, round(font.getlength(run))), _BITMAP_SIZE + 30), (0, 0, 0, 0))
    ImageDraw.Draw(stamp).text((0, _BITMAP_SIZE), run, font=font, embedded_color=True, anchor="ls")
    scale = size / _BITMAP_SIZE
    small = stamp.resize((max(1, round(stamp.width * scale)), max(1, round(stamp.height * scale))))
    image.paste(small, (round(x), round(y - size)), small)


def _is_bitmap(font: ImageFont.FreeTypeFont) -> bool:
    return "coloremoji" in str(font.path).lower()


@functools.lru_cache(maxsize=64)
def _font(source: str, size: int) -> ImageFont.FreeTypeFont:
    if not source:
        content = resources.files("talk2dino").joinpath(_BUNDLED).read_bytes()
        return ImageFont.truetype(io.BytesIO(content), size, layout_engine=ImageFont.Layout.BASIC)
    return ImageFont.truetype(source, _BITMAP_SIZE if "coloremoji" in source.lower() else size)


@functools.lru_cache(maxsize=16384)
def _source_of(character: str) -> str | None:
    """File of a font that has the character: "" for the bundled one, None when none has it."""
    if _has_glyph("", character):
        return ""
    return next((source for source in _installed_fonts() if _has_glyph(source, character)), None)


def _has_glyph(source: str, character: str) -> bool:
    """Whether the character looks different from one that no font has (Pillow gives no access to a font's tables)."""
    try:
        return character.isspace() or _glyph(source, character) != _glyph(source, "\U0010fffe")
    except (OSError, ValueError):
        return False


@functools.lru_cache(maxsize=256)
def _glyph(source: str, character: str) -> tuple[tuple[int, int], bytes]:
    mask = _font(source, _PROBE).getmask(character)
    return mask.size, bytes(mask)


@functools.lru_cache(maxsize=1)
def _installed_fonts() -> tuple[str, ...]:
    """Paths of the fallback fonts that this system has."""
    paths = []
    for name in _FALLBACKS:
        with contextlib.suppress(OSError):
            paths.append(str(ImageFont.truetype(name, _BITMAP_SIZE).path))
    return tuple(paths)
