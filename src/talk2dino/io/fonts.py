"""Set text into pictures: the bundled font first, a system font for what it lacks, a neutral box for the rest."""

from __future__ import annotations

import functools
import io
import os
import sys
import unicodedata
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

ELLIPSIS = "..."  # Chinese fonts put the one-character ellipsis at half height
_BUNDLED = "assets/fonts/talk2dino-sans.otf"
_PROBE = 24  # font size at which glyphs are looked for
_BITMAP_SIZE = 109  # the one size of Noto Color Emoji
_SYSTEM_NAMES = (  # parts of file names, best first
    "notoemoji", "symbola", "notosanssymbols", "seguisym", "seguiemj", "apple symbols", "notocoloremoji", "apple color",
    "notosanscjk", "pingfang", "hiragino", "msyh", "malgun", "applesdgothic", "wqy", "droidsansfallback", "dejavusans.",
    "arial unicode", "unifont", "notosans-regular", "notosansarabic", "notosansdevanagari", "notosansthai",
    "notosanshebrew", "segoeui.", "arial.", "freesans.",
)  # fmt: skip


def text_width(text: str, size: int) -> float:
    """Advance of a line of text in pixels."""
    return sum(_advance(font, run, size) for font, run in _runs(text, size))


def ellipsise(text: str, size: int, width: float) -> str:
    """The text if it fits into ``width``, else as much of its beginning as fits with an ellipsis."""
    text = clean(text)
    if text_width(text, size) <= width:
        return text
    low, high = 0, min(len(text), int(width) + 1)  # no character is narrower than a pixel
    while low < high:
        middle = (low + high + 1) // 2
        if text_width(text[:middle].rstrip() + ELLIPSIS, size) <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + ELLIPSIS


def wrap(text: str, size: int, width: float, lines: int) -> list[str]:
    """Break at spaces into at most ``lines`` lines; what is too long is shortened."""
    broken: list[str] = []
    words = clean(text).split(" ")
    while words:
        if len(broken) == lines - 1:
            return [*broken, ellipsise(" ".join(words), size, width)]
        taken = 1
        while taken < len(words) and text_width(" ".join(words[: taken + 1]), size) <= width:
            taken += 1
        broken.append(ellipsise(" ".join(words[:taken]), size, width))
        words = words[taken:]
    return broken


def draw_text(
    image: Image.Image,
    position: tuple[float, float],
    text: str,
    size: int,
    fill: Colour,
    *,
    halo: Colour | None = None,
    halo_width: int = 0,
) -> None:
    """Draw one line on an RGB image; ``position`` is the left end of its base line. The halo lies under all of it."""
    draw = ImageDraw.Draw(image)
    runs = list(_runs(text, size))
    for stroke in [halo_width, 0] if halo is not None and halo_width else [0]:
        x, y = position
        colour = halo if stroke and halo is not None else fill
        for font, run in runs:
            advance = _advance(font, run, size)
            if font is None:
                _draw_box(draw, x, y, size, colour, stroke)
            elif _is_bitmap(font):
                _paste_bitmap(image, font, run, x, y, size)
            else:
                draw.text((x, y), run, font=font, fill=colour, anchor="ls", stroke_width=stroke)
            x += advance


def clean(text: str) -> str:
    """One line without what has no width of its own: controls, joiners, variation selectors, lone surrogates."""
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    return "".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cf", "Cs") and c not in "\ufe0e\ufe0f")


def _runs(text: str, size: int) -> Iterator[tuple[ImageFont.FreeTypeFont | None, str]]:
    """Split into stretches of one font; None for characters that no font has, one at a time."""
    current: ImageFont.FreeTypeFont | None = None
    run = ""
    for character in clean(text):
        source = _source_of(character)
        if source is None and (base := unicodedata.normalize("NFKD", character)[0]) != character:
            source, character = _source_of(base), base  # without its accent, rather than a box
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


def _draw_box(draw: ImageDraw.ImageDraw, x: float, y: float, size: int, colour: Colour, stroke: int) -> None:
    """A frame as high as a capital, in place of a character that cannot be drawn."""
    left, top, right = x + 0.12 * size, y - 0.74 * size, x + 0.78 * size
    line = max(1, size // 14)
    draw.rectangle((left - stroke, top - stroke, right + stroke, y + stroke), outline=colour, width=line + 2 * stroke)


def _paste_bitmap(image: Image.Image, font: ImageFont.FreeTypeFont, run: str, x: float, y: float, size: int) -> None:
    """A colour emoji, drawn at the font's only size and scaled down."""
    stamp = Image.new("RGBA", (max(1, round(font.getlength(run))), _BITMAP_SIZE + 30), (0, 0, 0, 0))
    ImageDraw.Draw(stamp).text((0, _BITMAP_SIZE), run, font=font, embedded_color=True, anchor="ls")
    scale = size / _BITMAP_SIZE
    small = stamp.resize((max(1, round(stamp.width * scale)), max(1, round(stamp.height * scale))))
    image.paste(small, (round(x), round(y - size)), small)


def _is_bitmap(font: ImageFont.FreeTypeFont) -> bool:
    return "coloremoji" in str(font.path).lower()


@functools.lru_cache(maxsize=1)
def _bundled_bytes() -> bytes:
    return resources.files("talk2dino").joinpath(_BUNDLED).read_bytes()


@functools.lru_cache(maxsize=64)
def _font(source: str, size: int) -> ImageFont.FreeTypeFont:
    if not source:
        return ImageFont.truetype(io.BytesIO(_bundled_bytes()), size, layout_engine=ImageFont.Layout.BASIC)
    return ImageFont.truetype(source, _BITMAP_SIZE if "coloremoji" in source.lower() else size)


@functools.lru_cache(maxsize=16384)
def _source_of(character: str) -> str | None:
    """File of a font that has the character: "" for the bundled one, None when none has it."""
    if _has_glyph("", character):
        return ""
    return next((source for source in _system_fonts() if _has_glyph(source, character)), None)


def _has_glyph(source: str, character: str) -> bool:
    """Whether the character looks different from one that no font has (Pillow does not show a font's tables)."""
    try:
        font = _font(source, _PROBE)
        mask = font.getmask(character)
        return character.isspace() or (mask.size, bytes(mask)) != _missing(source)
    except (OSError, ValueError):
        return False


@functools.lru_cache(maxsize=64)
def _missing(source: str) -> tuple[tuple[int, int], bytes]:
    mask = _font(source, _PROBE).getmask("\U0010fffe")
    return mask.size, bytes(mask)


@functools.lru_cache(maxsize=1)
def _system_fonts() -> tuple[str, ...]:
    """Installed fonts that are likely to help, best first."""
    home = Path.home()
    folders = {
        "darwin": [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"],
        "win32": [
            Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts",
            home / "AppData/Local/Microsoft/Windows/Fonts",
        ],
    }.get(sys.platform, [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), home / ".local/share/fonts"])
    ranked = []
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in names:
                if name.lower().endswith((".ttf", ".otf", ".ttc")):
                    rank = next((i for i, part in enumerate(_SYSTEM_NAMES) if part in name.lower()), None)
                    if rank is not None:
                        ranked.append((rank, "bold" in name.lower(), name, os.path.join(parent, name)))
    return tuple(path for *_, path in sorted(ranked)[:40])
