"""The overlay is painted as promised, its text is there, and no size, name or count makes it fail."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from talk2dino.errors import InputError
from talk2dino.io import legend, overlay
from talk2dino.io.legend import draw_grid, legend_rows, percent
from talk2dino.io.overlay import draw_overlay
from talk2dino.io.palette import class_palette
from talk2dino.io.placement import best_spot, edge_distance, reduce_labels
from talk2dino.types import Segmentation

RED, BLUE = (220, 30, 40), (30, 60, 220)


def segmentation(labels, names, background=None, palette=None):
    palette = class_palette(len(names), background) if palette is None else np.array(palette, np.uint8)
    return Segmentation(np.asarray(labels), tuple(names), palette, background)


def halves(height, width, left="left", right="right", **options):
    labels = np.zeros((height, width), int)
    labels[:, width // 2 :] = 1
    return segmentation(labels, (left, right), palette=[RED, BLUE], **options)


def grey(height, width, value=100):
    return np.full((height, width, 3), value, np.uint8)


def inked(canvas, box):
    """Number of dark pixels in a part of the (near-white) legend."""
    return int((np.asarray(canvas.crop(box)).max(axis=2) < 140).sum())


@pytest.mark.parametrize("opacity", [0.0, 0.55, 1.0])
def test_colours_are_mixed_with_the_picture(opacity):
    drawn = np.asarray(draw_overlay(grey(61, 103), halves(61, 103), opacity=opacity, legend=False)).astype(float)
    assert drawn.shape == (61, 103, 3)
    for column, colour in ((3, RED), (99, BLUE)):
        expected = 100 * (1 - opacity) + np.array(colour) * opacity
        assert np.abs(drawn[5, column] - expected).max() <= 1.5


def test_the_background_is_painted_less(monkeypatch):
    seg = segmentation(halves(61, 103).labels, ("background", "car"), background=0)
    drawn = np.asarray(draw_overlay(grey(61, 103, 200), seg, opacity=0.5, legend=False))
    assert drawn[5, 3].tolist() == [pytest.approx(200 * 0.6 + 64 * 0.4, abs=1.5)] * 3


def test_a_light_line_with_a_dark_seam_runs_between_regions():
    drawn = np.asarray(draw_overlay(grey(61, 103), halves(61, 103), legend=False)).astype(int)
    row = drawn[2].sum(axis=1)
    assert row[51] > row[3] + 150  # the line
    assert min(row[50], row[52]) < min(row[3], row[99]) - 20  # the seam
    assert (np.abs(drawn[2, :48] - drawn[2, 3]) <= 1).all()  # nothing elsewhere


def test_names_stand_in_their_regions_and_the_backgrounds_does_not():
    plain, named = (
        np.asarray(draw_overlay(grey(211, 331), halves(211, 331, name, " "), legend=False)) for name in (" ", "grass")
    )
    changed = np.argwhere((plain != named).any(axis=2))
    assert len(changed) > 60
    assert changed[:, 1].max() < 165
    assert np.abs(changed.mean(axis=0) - (105, 82)).max() < 20
    seg = segmentation(halves(211, 331).labels, ("background", " "), background=0)
    blank = segmentation(seg.labels, (" ", " "), background=0)
    assert draw_overlay(grey(211, 331), seg, legend=False) == draw_overlay(grey(211, 331), blank, legend=False)


def test_a_name_that_does_not_fit_is_left_to_the_legend():
    labels = np.zeros((211, 331), int)
    labels[::2] = 1
    one = draw_overlay(grey(211, 331), segmentation(labels, ("a", "b")), legend=False)
    other = draw_overlay(grey(211, 331), segmentation(labels, ("long name", "b")), legend=False)
    assert one == other


def test_small_pictures_are_enlarged_and_large_ones_kept():
    assert draw_overlay(grey(20, 20), halves(20, 20)).height >= 640
    wide = draw_overlay(grey(700, 1100), halves(700, 1100))
    assert wide.width == 1100
    assert wide.height > 700  # legend below
    tall = draw_overlay(grey(1100, 700), halves(1100, 700))
    assert tall.height == 1100
    assert tall.width > 700  # legend beside
    assert draw_overlay(grey(20, 20), halves(20, 20), legend=False).size == (20, 20)


def test_enlarged_labels_stay_exact():
    drawn = np.asarray(draw_overlay(grey(7, 11), halves(7, 11), opacity=1))
    factor = -(-640 // 11)
    assert drawn[5, 5 * factor - 5].tolist() == list(RED)
    assert drawn[5, 5 * factor + 5].tolist() == list(BLUE)


def test_the_legend_shows_swatch_name_and_share():
    drawn = draw_overlay(grey(640, 900), halves(640, 900, "天空", "grass"))
    panel = np.asarray(drawn)[640:]
    for colour in (RED, BLUE):
        assert (panel == colour).all(axis=2).sum() > 200
    empty = draw_overlay(grey(640, 900), halves(640, 900, " ", " "))
    assert inked(drawn, (0, 640, 900, drawn.height)) > inked(empty, (0, 640, 900, empty.height)) + 100


def test_rows_are_sorted_and_cut_and_what_was_not_found_is_said():
    labels = np.repeat(np.arange(30), np.arange(1, 31))[None]
    rows, remark = legend_rows(segmentation(labels, [f"c{i}" for i in range(32)], background=31))
    assert [row.name for row in rows[:2]] == ["c29", "c28"]
    assert len(rows) == legend.LISTED + 1
    assert rows[-1].name == "and 10 more"
    assert rows[-1].colour is None
    assert rows[-1].share == percent(55 / 465)
    assert remark == "not found: c30"


@pytest.mark.parametrize(
    ("share", "text"), [(0.42345, "42.3 %"), (1, "100 %"), (0, "0 %"), (0.0004, "< 0.1 %"), (0.001, "0.1 %")]
)
def test_percent(share, text):
    assert percent(share) == text


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 700), (20, 20), (211, 307)])
@pytest.mark.parametrize("count", [1, 2, 30, 1000])
def test_no_size_and_no_count_fails(size, count):
    labels = np.random.default_rng(1).integers(0, count, size)
    names = [f"class {i} 名 🐈 {'long ' * (i % 9) * 9}" for i in range(count)]
    drawn = draw_overlay(grey(*size), segmentation(labels, names))
    assert drawn.mode == "RGB"
    assert max(drawn.size) >= 640
    assert drawn.width * drawn.height < 30_000_000


def test_very_large_pictures_are_reduced(monkeypatch):
    monkeypatch.setattr(overlay, "_LARGEST", 700)
    drawn = draw_overlay(grey(900, 1400), halves(900, 1400), opacity=1)
    assert drawn.width == 700
    assert drawn.getpixel((5, 5)) == RED
    assert drawn.getpixel((690, 440)) == BLUE
    assert draw_overlay(grey(900, 1400), halves(900, 1400), legend=False).size == (1400, 900)


def test_refusals():
    with pytest.raises(InputError, match=r"\(5, 7\).*\(7, 5\)"):
        draw_overlay(grey(5, 7), halves(7, 5))
    for opacity in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="opacity"):
            draw_overlay(grey(5, 7), halves(5, 7), opacity=opacity)


def test_the_picture_may_be_a_file(tmp_path):
    Image.fromarray(grey(61, 103)).save(tmp_path / "x.png")
    from_file = draw_overlay(tmp_path / "x.png", halves(61, 103), legend=False)
    assert from_file == draw_overlay(grey(61, 103), halves(61, 103), legend=False)


def test_edge_distance_against_brute_force():
    labels = np.random.default_rng(2).integers(0, 2, (3, 4)).repeat(5, 0).repeat(4, 1)[:13, :17]
    padded = np.pad(labels, 1, constant_values=-1)
    points = np.argwhere(np.ones_like(padded, dtype=bool))
    for row, column in np.ndindex(labels.shape):
        others = points[(padded != labels[row, column]).ravel()]
        expected = np.hypot(*(others - (row + 1, column + 1)).T).min()
        assert edge_distance(labels)[row, column] == pytest.approx(expected)


def test_reduced_labels_keep_what_is_thin():
    labels = np.full((7, 11), 4)
    labels[5] = 2
    reduced = reduce_labels(labels, 3)
    assert reduced.tolist() == [[4] * 4, [-1] * 4, [4] * 4]
    assert reduce_labels(labels, 1) is labels


def test_specks_do_not_keep_a_name_away():
    inside = np.ones((23, 31), bool)
    inside[5::6, 5::6] = False
    assert best_spot(inside, np.ones((23, 31)), (5, 13)) is not None


def test_best_spot_is_inside():
    inside = np.zeros((23, 31), bool)
    inside[2:9, 3:29] = True
    distance = edge_distance(inside.astype(int))
    assert best_spot(inside, distance, (3, 7)) == (5, 15)
    assert best_spot(inside, distance, (7, 26)) == (5, 16)
    assert best_spot(inside, distance, (8, 3)) is None
    assert best_spot(inside, distance, (99, 99)) is None


def test_grid():
    tiles = [
        (f"标题 {i}", Image.new("RGB", (300, 200 + 100 * (i % 2)), colour)) for i, colour in enumerate([RED, BLUE, RED])
    ]
    drawn = draw_grid(tiles, columns=2)
    assert 600 < drawn.width < 700
    assert 500 < drawn.height < 620
    assert drawn.getpixel((150, 120)) == RED
    assert drawn.getpixel((450, 120)) == BLUE
    assert drawn.getpixel((150, drawn.height - 60)) == RED
    assert drawn.getpixel((450, drawn.height - 60)) == drawn.getpixel((0, 0))
    assert draw_grid(tiles).width == drawn.width
    assert draw_grid(tiles[:1], columns=9).width < 350
    assert draw_grid([("strip", Image.new("L", (1, 5000)))]).height < 1000
    with pytest.raises(InputError, match="at least one picture"):
        draw_grid([])
    with pytest.raises(InputError, match="at least one column"):
        draw_grid(tiles, columns=0)
