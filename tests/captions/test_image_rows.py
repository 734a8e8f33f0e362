from array import array

import pytest

from talk2dino.captions import Record
from talk2dino.captions.image_rows import ImageRows


def grouped(rows):
    """ImageRows of (image hash, captions), and the rows whose captions it asked for."""
    asked = []

    def read(mask):
        assert mask.any()  # the captions of other tables are not read a second time
        for row in mask.nonzero()[0].tolist():
            asked.append(row)
            yield row, rows[row][1]

    return ImageRows(array("Q", [image for image, _ in rows]), read), asked


def records(groups, rows):
    """(number, row, captions or the reason for skipping) of each row with a number."""
    found = []
    for row in groups.wanted_rows(lambda number: True).nonzero()[0].tolist():
        record = groups.record(row, str(row), rows[row][1], bytes)
        found.append((groups.number(row), row, record.captions if isinstance(record, Record) else record.reason))
    return found


def test_rows_of_one_image_are_one_record():
    rows = [
        (5, "a"),
        (3, ["b", "c"]),
        (5, "d"),
        (0, "e"),
        (5, "a"),
        (3, None),
        (7, None),
        (0, "e"),
        (5, ["f"]),
        (3, "g"),
    ]
    groups, asked = grouped(rows)
    assert asked == [0, 1, 2, 4, 5, 8, 9]
    assert records(groups, rows) == [
        (0, 0, ("a", "d", "f")),
        (1, 1, ("b", "c", "g")),
        (2, 3, ("e",)),
        (3, 4, "repeats the image and captions of an earlier row"),
        (4, 6, "no caption that is not empty"),
        (5, 7, ("e",)),
    ]
    assert len(groups) == 6
    assert [groups.number(row) for row in (2, 5, 8, 9)] == [2, 4, 6, 6]  # further rows: that of the next numbered row


def test_equal_captions_of_other_images_are_not_repeated():
    rows = [(5, "a"), (3, "a"), (5, "b"), (3, "b")]
    groups, _ = grouped(rows)
    assert records(groups, rows) == [(0, 0, ("a", "b")), (1, 1, ("a", "b"))]


@pytest.mark.parametrize("rows", [[], [(5, "a")], [(5, "a"), (3, "a"), (0, "b"), (0, "b")]])
def test_captions_are_not_read_without_shared_images(rows):
    groups, asked = grouped(rows)
    assert (asked, len(groups)) == ([], len(rows))
    assert records(groups, rows) == [(row, row, (captions,)) for row, (_, captions) in enumerate(rows)]


def test_only_wanted_numbers():
    rows = [(5, "a"), (5, "b"), (3, "c"), (2, "d")]
    groups, _ = grouped(rows)
    assert groups.wanted_rows(lambda number: number == 1).tolist() == [False, False, True, False]
