"""The overlay is painted as promised, its text is there, and no size, name or count makes it fail."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from talk2dino.errors import InputError
from talk2dino.io import legend as legend_module
from talk2dino.io.contours import draw_contours, smooth_edges
from talk2dino.io.legend import Legend, LegendRow, draw_grid, draw_legend, format_share, make_legend, merge_legends
from talk2dino.io.overlay import draw_overlay, overlay_legend
from talk2dino.io.palette import class_palette
from talk2dino.io.placement import best_spot, reduce_labels
from talk2dino.types import Segmentation

RED, BLUE = (220, 30, 40), (30, 60, 220)


def segmentation(labels, names, background=None, palette=None):
    palette = class_palette(names, background) if palette is None else np.array(palette, np.uint8)
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


def edge_distance(labels, size):
    steps, distances = smooth_edges(labels, size)
    return distances[steps]


def edges(labels, size):
    """The pixels less than one pixel from a line."""
    return edge_distance(labels, size) < 1


@pytest.mark.parametrize("opacity", [0.0, 0.55, 1.0])
def test_colours_are_mixed_with_the_image(opacity):
    drawn = np.asarray(draw_overlay(grey(61, 103), halves(61, 103), opacity=opacity, legend=False)).astype(float)
    assert drawn.shape == (61, 103, 3)
    for column, colour in ((3, RED), (99, BLUE)):
        expected = 100 * (1 - opacity) + np.array(colour) * opacity
        assert np.abs(drawn[5, column] - expected).max() <= 1.5


def test_the_background_is_painted_less():
    seg = segmentation(halves(61, 103).labels, ("background", "car"), background=0)
    drawn = np.asarray(draw_overlay(grey(61, 103, 200), seg, opacity=0.5, legend=False))
    assert drawn[5, 3].tolist() == [pytest.approx(200 * 0.6, abs=1.5)] * 3


def test_a_light_line_with_a_dark_seam_runs_between_regions():
    drawn = np.asarray(draw_overlay(grey(61, 103), halves(61, 103), legend=False)).astype(int)
    plain = np.asarray(draw_overlay(grey(61, 103), halves(61, 103), legend=False, contours=False)).astype(int)
    row, flat = drawn[31].sum(axis=1), plain[31].sum(axis=1)
    assert row[50:52].max() > flat[50:52].max() + 100  # the line
    assert (row < flat - 40)[48:54].any()  # the seam
    assert (drawn[:, :48] == plain[:, :48]).all()  # nothing elsewhere, not at the border either
    assert (drawn[:, 55:] == plain[:, 55:]).all()
    for border in (0, 60):
        assert drawn[border, 50:52].sum() > plain[border, 50:52].sum()


def test_contours_of_a_disc_are_smooth():
    """At twice the size, the line keeps to the circle: the stairs of the enlarged pixels would leave it by a pixel."""
    rows, columns = np.mgrid[:211, :307]
    disc = (np.hypot(rows + 0.5 - 105, columns + 0.5 - 150) < 71).astype(int)
    distance = edge_distance(disc, (614, 422))
    rows, columns = np.mgrid[:422, :614]
    error = np.abs(np.hypot(rows + 0.5 - 210, columns + 0.5 - 300) - 142) - distance
    near = distance < 2
    assert near.sum() > 3000
    assert error[near].std() < 0.2
    assert np.abs(error[near]).max() < 0.5


def test_contours_meet_where_three_regions_do_and_reach_the_border():
    labels = np.zeros((61, 103), int)
    labels[:, 50:] = 1
    labels[30:, 50:] = 2
    expected = np.zeros((122, 206), bool)
    expected[:, 99:101] = True
    expected[59:61, 99:] = True
    assert np.abs(edges(labels, (206, 122)) ^ expected).sum() < 12  # near the meeting point


def test_specks_get_no_contour():
    labels = np.zeros((211, 307), int)
    labels[50:52, 60:62] = 1
    labels[100, ::3] = 1
    assert not edges(labels, (614, 422)).any()
    labels[120:160, 100:160] = 1
    assert np.argwhere(edges(labels, (614, 422)))[:, 0].min() > 230


def test_contours_on_a_canvas_of_another_size():
    for size in ((307, 211), (1535, 1055), (100, 69)):
        canvas = Image.new("RGB", size, (90, 90, 90))
        draw_contours(canvas, halves(211, 307).labels)
        changed = np.flatnonzero((np.asarray(canvas) != 90).any(axis=(0, 2)))
        assert abs(changed.mean() + 0.5 - size[0] * 153 / 307) < 1


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
    one, other = (segmentation(labels, (name, "b"), palette=[RED, BLUE]) for name in ("a", "long name"))
    image = grey(211, 331)
    assert draw_overlay(image, one, legend=False) == draw_overlay(image, other, legend=False)


def test_small_images_are_enlarged_for_a_legend_and_others_kept():
    assert draw_overlay(grey(20, 20), halves(20, 20)).height >= 640
    wide = draw_overlay(grey(700, 1100), halves(700, 1100))
    assert wide.width == 1100
    assert wide.height > 700  # legend below
    tall = draw_overlay(grey(1100, 700), halves(1100, 700))
    assert tall.height == 1100
    assert tall.width > 700  # legend beside
    assert draw_overlay(grey(20, 20), halves(20, 20), legend=False).size == (20, 20)
    assert draw_overlay(grey(200, 4999), halves(200, 4999), legend=False).size == (4999, 200)
    assert draw_overlay(grey(20, 30), halves(20, 30), max_size=100).width >= 90


def test_max_size_reduces():
    drawn = draw_overlay(grey(900, 1400), halves(900, 1400), opacity=1, max_size=700)
    assert drawn.width == 700
    assert drawn.getpixel((5, 5)) == RED
    assert drawn.getpixel((690, 440)) == BLUE
    assert draw_overlay(grey(900, 1400), halves(900, 1400), legend=False, max_size=70).size == (70, 45)
    assert draw_overlay(grey(900, 1400), halves(900, 1400), legend=False, max_size=1400).size == (1400, 900)


def test_enlarged_labels_stay_exact():
    drawn = np.asarray(draw_overlay(grey(7, 11), halves(7, 11), opacity=1))
    factor = -(-640 // 11)
    assert drawn[5, 5 * factor - 5].tolist() == list(RED)
    assert drawn[5, 5 * factor + 5].tolist() == list(BLUE)


def test_the_legend_shows_swatch_name_and_share():
    """The swatch has the colour as drawn: that of the palette, mixed with the image."""
    drawn = draw_overlay(grey(640, 900), halves(640, 900, "天空", "grass"), opacity=0.5)
    panel = np.asarray(drawn)[640:]
    for colour, column in ((RED, 20), (BLUE, 880)):
        painted = drawn.getpixel((column, 20))
        assert (np.abs(panel.astype(int) - painted) <= 1).all(axis=2).sum() > 200
        assert np.abs(np.array(painted) - np.array(colour) // 2 - 50).max() <= 1
    empty = draw_overlay(grey(640, 900), halves(640, 900, " ", " "))
    assert inked(drawn, (0, 640, 900, drawn.height)) > inked(empty, (0, 640, 900, empty.height)) + 100


def test_the_drawn_colour_is_the_mean_of_the_class():
    image = grey(60, 80)
    image[:, 40:] = (10, 20, 30)
    image[:, 60:] = (30, 40, 50)
    seg = halves(60, 80, background=0)
    legend = overlay_legend(image, seg, opacity=0.5)
    assert [row.colour for row in legend.rows] == [(148, 72, 76), (25, 45, 130)]


def test_rows_are_sorted_and_the_absent_listed():
    labels = np.repeat(np.arange(30), np.arange(1, 31))[None]
    names = [f"c{i}" for i in range(32)]
    legend = make_legend(labels, names, np.zeros((32, 3)), background=31)
    assert [row.name for row in legend.rows] == names[29::-1]
    assert legend.rows[0].share == pytest.approx(30 / 465)
    assert legend.absent == ("c30",)
    ignored = make_legend(np.array([[0, 0, 1, 255]]), ["a", "b"], np.zeros((2, 3)))
    assert [row.share for row in ignored.rows] == [0.5, 0.25]
    ignored = make_legend(np.array([[-1, 0, 0, 1], [255, -1, 0, 1]]), ["a", "b"], np.zeros((2, 3)))
    assert [(row.name, row.share) for row in ignored.rows] == [("a", 3 / 8), ("b", 2 / 8)]


def test_the_colours_of_a_large_image_come_from_a_sample():
    """A class of one pixel, which the sample misses, has the mean of the image in its place."""
    labels = np.zeros((701, 907), int)
    labels[:, 503:], labels[1, 1] = 1, 2
    image = np.full((701, 907, 3), (40, 60, 80), np.uint8)
    image[:, 503:] = (200, 100, 20)
    palette = np.array([RED, BLUE, RED], np.uint8)
    seg = Segmentation(labels, ("a", "b", "c"), palette)
    found = {row.name: row.colour for row in overlay_legend(image, seg, opacity=0.25).rows}
    by_hand = [0.75 * image[0, x] + 0.25 * palette[i] for i, x in enumerate((0, 600))]
    assert found["a"] == tuple(np.rint(by_hand[0]).astype(int))
    assert found["b"] == tuple(np.rint(by_hand[1]).astype(int))
    by_hand = 0.75 * image.reshape(-1, 3).mean(0) + 0.25 * palette[2]
    assert np.abs(np.array(found["c"]) - by_hand).max() < 2


def test_a_long_legend_says_how_many_more(monkeypatch):
    written = []
    monkeypatch.setattr(legend_module, "draw_text", lambda panel, place, text, *rest: written.append(text))
    rows = tuple(LegendRow(f"c{i}", RED, 0.02) for i in range(30))
    draw_legend(Legend(rows, tuple(f"absent {i}" for i in range(150))), 16, width=640)
    assert written[-4:-2] == ["and 10 more", "20.0 %"]
    assert len(written) == 2 * (legend_module.LISTED + 1) + 2
    shown = " ".join(written[-2:])
    listed = shown.removeprefix("not found: ").split(", and ")[0].split(", ")
    assert listed == [f"absent {i}" for i in range(len(listed))]
    assert len(listed) > 8
    assert shown.endswith(f"and {150 - len(listed)} more")


def test_merged_legends_have_each_name_once():
    one = Legend((LegendRow("sky", RED, 0.6), LegendRow("grass", BLUE, 0.4)), ("car", "road"))
    two = Legend((LegendRow("grass", RED, 0.9), LegendRow("car", BLUE, 0.1)), ("sky", "road"))
    assert merge_legends([one, two]) == Legend(
        (LegendRow("grass", BLUE), LegendRow("sky", RED), LegendRow("car", BLUE)), ("road",)
    )


@pytest.mark.parametrize(
    ("share", "text"), [(0.42345, "42.3 %"), (1, "100 %"), (0, "0 %"), (0.0004, "< 0.1 %"), (0.001, "0.1 %")]
)
def test_shares_in_per_cent(share, text):
    assert format_share(share) == text


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 700), (20, 20), (211, 307)])
@pytest.mark.parametrize("count", [1, 2, 30, 1000])
def test_no_size_and_no_count_fails(size, count):
    labels = np.random.default_rng(1).integers(0, count, size)
    names = [f"class {i} 名 🐈 {'long ' * (i % 9) * 9}" for i in range(count)]
    drawn = draw_overlay(grey(*size), segmentation(labels, names))
    assert drawn.mode == "RGB"
    assert max(drawn.size) >= 640
    assert drawn.width * drawn.height < 40_000_000


def test_refusals():
    with pytest.raises(InputError, match=r"\(5, 7\).*\(7, 5\)"):
        draw_overlay(grey(5, 7), halves(7, 5))
    for opacity in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="opacity"):
            draw_overlay(grey(5, 7), halves(5, 7), opacity=opacity)
    with pytest.raises(InputError, match="max_size must be at least 1 pixel; got 0"):
        draw_overlay(grey(5, 7), halves(5, 7), max_size=0)


def test_the_image_may_be_a_file(tmp_path):
    Image.fromarray(grey(61, 103)).save(tmp_path / "x.png")
    from_file = draw_overlay(tmp_path / "x.png", halves(61, 103), legend=False)
    assert from_file == draw_overlay(grey(61, 103), halves(61, 103), legend=False)


def test_names_on_a_strip_are_legible_or_left_out():
    """On a strip of 40 pixels a name keeps its full height; on one of 12 pixels there is none."""
    for height, room in ((40, True), (12, False)):
        named, plain = (
            np.asarray(draw_overlay(grey(height, 5000), halves(height, 5000, name, " "), legend=False))
            for name in ("person", " ")
        )
        rows = np.flatnonzero((named != plain).any(axis=(1, 2)))
        assert bool(len(rows)) == room
        if room:
            assert rows[0] > 0
            assert rows[-1] < height - 1
            assert len(rows) >= 11


def test_reduced_labels_keep_what_is_thin():
    labels = np.full((7, 11), 4)
    labels[5] = 2
    reduced = reduce_labels(labels, 3)
    assert reduced.tolist() == [[4] * 4, [-1] * 4, [4] * 4]
    assert reduce_labels(labels, 1) is labels


def test_specks_do_not_keep_a_name_away():
    inside = np.ones((23, 31), bool)
    inside[5::6, 5::6] = False
    assert best_spot(inside, (5, 13)) is not None


def test_best_spot_is_inside_with_room_around():
    inside = np.zeros((23, 31), bool)
    inside[2:9, 3:29] = True
    assert best_spot(inside, (7, 26)) == (5.5, 16)
    assert best_spot(inside, (3, 7)) == (pytest.approx(5.5, abs=0.5), pytest.approx(16, abs=1))
    assert best_spot(inside, (8, 3)) is None
    assert best_spot(inside, (99, 99)) is None
    inside[9:23, 3:7] = True  # a leg that moves the centre, but has less room
    row, column = best_spot(inside, (2, 4))
    assert row < 9
    for box in ((2, 4), (3, 7), (7, 20)):
        row, column = best_spot(inside, box)
        top, left = int(row - box[0] / 2), int(column - box[1] / 2)
        assert inside[top : top + box[0], left : left + box[1]].mean() >= 0.97
    assert best_spot(np.zeros((5, 5), bool), (1, 1)) is None


def tiles(count):
    return [
        (f"标题 {i}", Image.new("RGB", (300, 200 + 100 * (i % 2)), colour))
        for i, colour in enumerate(([RED, BLUE] * count)[:count])
    ]


def test_grid():
    drawn = draw_grid(tiles(4), columns=2)
    assert 600 < drawn.width < 700
    assert 600 < drawn.height < 720
    assert drawn.getpixel((150, 120)) == RED
    assert drawn.getpixel((450, 120)) == BLUE
    assert draw_grid(tiles(4)).width == drawn.width
    assert draw_grid(tiles(1), columns=9).width < 350
    assert draw_grid([("strip", Image.new("L", (1, 5000)))]).height < 1000
    with pytest.raises(InputError, match="at least one image"):
        draw_grid([])
    with pytest.raises(InputError, match="at least one column"):
        draw_grid(tiles(3), columns=0)


def test_a_grid_has_no_empty_places():
    """A last row with free places is centred, or holds the legend; a legend without a place goes below."""
    drawn = draw_grid(tiles(3), columns=2)
    assert drawn.getpixel((drawn.width // 2, drawn.height - 60)) == RED
    legend = Legend((LegendRow("sky", (1, 2, 3)), LegendRow("grass", (4, 5, 6))))
    filled = draw_grid(tiles(3), columns=2, legend=legend)
    assert filled.size == drawn.size
    assert filled.getpixel((150, filled.height - 60)) == RED
    swatches = np.argwhere((np.asarray(filled) == (1, 2, 3)).all(axis=2))
    assert swatches[:, 1].min() > filled.width // 2
    assert swatches[:, 0].min() > 300
    below = draw_grid(tiles(4), columns=2, legend=legend)
    full = draw_grid(tiles(4), columns=2)
    assert below.height > full.height
    assert np.argwhere((np.asarray(below) == (1, 2, 3)).all(axis=2))[:, 0].min() > full.height
    long = Legend(tuple(LegendRow(f"a rather long name of class {i}", RED) for i in range(19)))
    assert draw_grid(tiles(3), columns=2, legend=long).height > full.height + 100
