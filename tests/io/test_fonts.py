"""Text is set with the bundled font, and whatever it lacks is drawn as something."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from talk2dino.io import fonts as text
from talk2dino.io.fonts import draw_text, ellipsise, fit_names, text_width

INK, PAPER, HALO = (0, 0, 0), (255, 255, 255), (255, 0, 0)


@pytest.fixture
def no_installed_fonts(monkeypatch):
    monkeypatch.setattr(text, "_installed_fonts", lambda: ())
    text._source_of.cache_clear()
    yield
    text._source_of.cache_clear()


def drawn(line: str, size: int = 32, **options) -> np.ndarray:
    image = Image.new("RGB", (round(text_width(line, size)) + 40, 2 * size), PAPER)
    draw_text(image, (20, 1.4 * size), line, size, INK, **options)
    return np.asarray(image)


def test_the_bundled_font_has_both_languages(no_installed_fonts):
    level_one = [bytes((0xA0 + row, 0xA0 + cell)).decode("gb2312") for row in range(16, 55) for cell in range(1, 95)]
    others = "éßñøüāěΩяЖ、。「」（）—‘’“”€あア"
    for character in [*map(chr, range(0x20, 0x7F)), *others, *level_one[::37], *level_one[-5:]]:
        assert text._source_of(character) == "", character


def test_different_characters_look_different(no_installed_fonts):
    pictures = {drawn(character).tobytes() for character in "草地天空球箱鱼车"}
    assert len(pictures) == 8


@pytest.mark.parametrize("line", ["🐈", "👨‍👩‍👧", "\U0010ffff", "عربى", "हिन्दी", "𓀀"])
def test_what_no_font_has_becomes_a_box(no_installed_fonts, line):
    assert text_width(line, 32) > 20
    assert 30 < (drawn(line) < 128).sum() < 3 * 32 * 32 * len(line)


def test_an_accent_is_dropped_rather_than_the_letter(no_installed_fonts):
    assert np.array_equal(drawn("š"), drawn("s"))
    assert not np.array_equal(drawn("é"), drawn("e"))


def test_a_system_font_helps_out(monkeypatch, tmp_path):
    """A font that has the character is found; a file that is no font is passed over."""
    (tmp_path / "symbola.ttf").write_bytes(b"no font")
    with text.resources.as_file(text.resources.files("talk2dino").joinpath(text._BUNDLED)) as real:
        copy = tmp_path / "dejavusans.otf"
        copy.write_bytes(real.read_bytes())
    monkeypatch.setattr(text, "_installed_fonts", lambda: (str(tmp_path / "symbola.ttf"), str(copy)))
    has_glyph = text._has_glyph
    monkeypatch.setattr(text, "_has_glyph", lambda source, character: source != "" and has_glyph(source, character))
    text._source_of.cache_clear()
    try:
        assert text._source_of("草") == str(copy)
        assert text._source_of("\U0010ffff") is None
    finally:
        text._source_of.cache_clear()


@pytest.mark.parametrize("line", ["", " ", "\n\t", "\u200d\ufe0f", "\ud800", "a\x00b\x07"])
def test_what_has_no_shape_does_not_fail(line):
    assert ellipsise(line, 20, 100) == text.clean(line)
    drawn(line)


def test_width_is_that_of_the_ink():
    for line in ("WWWW", "草地草地", "iiii"):
        columns = np.flatnonzero((drawn(line) < 200).any(axis=(0, 2)))
        assert abs((columns[-1] - columns[0] + 1) - text_width(line, 32)) < 8
    assert text_width("草地", 40) == 80


def test_the_halo_surrounds_the_ink():
    with_halo = drawn("ox", halo=HALO, halo_width=4)
    red = (with_halo == HALO).all(axis=2)
    dark = (with_halo < 60).all(axis=2)
    assert red.sum() > dark.sum() > 100
    rows, columns = np.nonzero(dark)
    red_rows, red_columns = np.nonzero(red)
    assert red_rows.min() < rows.min()
    assert red_columns.max() > columns.max()


def test_ellipsis():
    assert ellipsise("grass", 20, 500) == "grass"
    long = "a very long name of a class " * 400
    short = ellipsise(long, 20, 200)
    assert short.endswith("...")
    assert 160 < text_width(short, 20) <= 200
    assert long.startswith(short[:-3])
    assert text_width(ellipsise("很长" * 50, 20, 130), 20) <= 130
    assert ellipsise("grass", 20, 1) == "..."


def test_a_list_of_names_is_not_cut_inside_a_name():
    names = ["sky", "grass", "water", "brick wall", "wood floor", "天空"] * 25
    for count in (1, 2, 3, 6, 150):
        for lines in (1, 2, 4):
            fitted = fit_names("not found", names[:count], 20, 300, lines)
            assert len(fitted) <= lines
            assert all(text_width(line, 20) <= 300 for line in fitted)
            text = " ".join(fitted).removeprefix("not found: ")
            shown, _, more = text.partition(" and ")
            listed = [name for name in shown.rstrip(",").split(", ") if name]
            assert listed == names[: len(listed)]
            assert more == (f"{count - len(listed)} more" if len(listed) < count else "")
    assert fit_names("not found", ["sky", "grass"], 20, 500, 1) == ["not found: sky, grass"]
    (line,) = fit_names("not found", ["a name that is much too long for its line", "b"], 20, 260, 1)
    assert line == "not found: and 2 more"


def test_installed_fonts_are_found_by_name(monkeypatch, tmp_path):
    with text.resources.as_file(text.resources.files("talk2dino").joinpath(text._BUNDLED)) as real:
        (tmp_path / "fonts").mkdir()
        (tmp_path / "fonts" / "unifont.otf").write_bytes(real.read_bytes())
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    text._installed_fonts.cache_clear()
    try:
        assert any(path.endswith("unifont.otf") for path in text._installed_fonts()) == (sys.platform == "linux")
    finally:
        text._installed_fonts.cache_clear()
