"""Tables with one row per caption: which rows belong to the same image.

Grouping is written by hand. ``pyarrow.dataset`` with ``group_by`` is faster (0.3 to 0.7 s against 4.5 s for 500,000 rows of
100,000 images), but it keeps 271 MB where this module keeps 63 MB. It cannot compare image bytes without loading all of
them, cannot compare lists of captions, loses a whole file to one damaged page, and would make metadata.jsonl and
metadata.csv depend on pyarrow.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable

import numpy as np

from talk2dino.captions.index import TextGroups, TextList, first_places, hash64, is_repeated, is_shared
from talk2dino.captions.source import Record, Skipped, Wanted, make_record


class ImageRows:
    """The rows of a table, grouped by image.

    The first row of an image has a number and all captions of that image. A further row with other captions has no
    number. A row that repeats image and captions of an earlier one has a number, to be skipped with a reason.

    Memory: 5 bytes per row, and the captions of further rows.

    Args:
        images: (N,) a 64-bit hash of each row's image; a row with 0 is an image of its own.
        read_captions: from a mask (N,) of rows to (row, captions) of each of them, in order. Called once, with the rows
            whose image has more than one row, if there are any.
    """

    def __init__(self, images: array, read_captions: Callable[[np.ndarray], Iterable[tuple[int, object]]]) -> None:
        first, later = first_places(images), is_repeated(images)
        contents = array("Q", bytes(8 * len(images)))
        texts = TextList()  # the captions of each later row, as JSON
        if later.any():
            for row, captions in read_captions(is_shared(images)):
                contents[row] = hash64(repr((images[row], captions)))
                if later[row]:
                    texts.append(json.dumps(_as_list(captions), default=repr))
        self._repeated = is_repeated(contents)
        further = later & ~self._repeated
        self._texts = TextGroups(texts, first[later], further[later])
        self._numbers = np.zeros(len(first) + 1, dtype=np.uint32)  # of each row: how many numbered rows precede it
        np.cumsum(~further, out=self._numbers[1:])

    def __len__(self) -> int:
        """How many rows have a number."""
        return int(self._numbers[-1])

    def number(self, row: int) -> int:
        """The record number of a row; for a further row, that of the next numbered one."""
        return int(self._numbers[row])

    def wanted_rows(self, wanted: Wanted) -> np.ndarray:
        """(N,) bool: whether a row has a number, and it is wanted."""
        flags = np.array([*map(wanted, range(len(self))), False], dtype=bool)
        return (self._numbers[1:] > self._numbers[:-1]) & flags[self._numbers[:-1]]

    def record(self, row: int, key: str, captions: object, read: Callable[[], bytes]) -> Record | Skipped:
        """The record of a numbered row: with its own captions, then those of all further rows of its image."""
        if self._repeated[row]:
            return Skipped(key, "repeats the image and captions of an earlier row")
        more = [caption for text in self._texts[row] for caption in json.loads(text)]
        return make_record(key, [*_as_list(captions), *more], read)


def _as_list(captions: object) -> list[object]:
    return list(captions) if isinstance(captions, list | tuple) else [captions]
