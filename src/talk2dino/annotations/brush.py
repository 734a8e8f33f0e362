"""Label Studio's brush masks: the "rle-pack" code of RGBA images, as Label Studio's own converter writes and reads it.

A stream of bits, most significant first: 32 bits number of values, 5 bits word size - 1, four times 4 bits size of a length
- 1. Then blocks: 1 bit "run", 2 bits which of the four sizes, a length - 1 of that size, and one value (run) or that many.
The values are the four channels of each pixel, row by row; the fourth (opacity) is 255 inside and 0 outside.

Source: thi.ng/umbrella, packages/rle-pack; label_studio_sdk/converter/brush.py (2.1.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from talk2dino.errors import DataError

_SIZES = np.array([3, 4, 8, 16])
_LONGEST = 2**16
_WORD = 8
_HEAD = 32 + 5 + 16


def brush_rle(mask: np.ndarray) -> list[int]:
    """Encode an (H, W) bool mask as the numbers of a brush region (``value["rle"]``)."""
    flat = np.asarray(mask, dtype=bool).reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = 4 * np.diff(starts, append=flat.size)
    values = np.where(flat[starts], 255, 0)
    pieces = -(-lengths // _LONGEST)  # longer runs are written in pieces
    values, lengths = np.repeat(values, pieces), np.repeat(lengths, pieces)
    last = np.cumsum(pieces) - 1
    rest = lengths[last] - (pieces - 1) * _LONGEST
    lengths = np.full(len(values), _LONGEST)
    lengths[last] = rest
    index = np.searchsorted([8, 16, 256], lengths)  # the smallest of the four sizes that holds length - 1
    widths = 3 + _SIZES[index] + _WORD
    codes = ((4 | index) << (_SIZES[index] + _WORD)) | ((lengths - 1) << _WORD) | values
    head = [(4 * flat.size, 32), (_WORD - 1, 5), *((int(size) - 1, 4) for size in _SIZES)]
    all_codes = np.concatenate([[code for code, _ in head], codes]).astype(np.int64)
    all_widths = np.concatenate([[width for _, width in head], widths]).astype(np.int64)
    ends = np.cumsum(all_widths)
    bits = np.zeros(-(-int(ends[-1]) // 8) * 8, dtype=np.uint8)
    for place in range(32):
        wide = all_widths > place
        bits[ends[wide] - 1 - place] = (all_codes[wide] >> place) & 1
    return np.packbits(bits).tolist()


def brush_mask(rle: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Decode the numbers of a brush region.

    Returns:
        (H, W) bool: pixels whose opacity is not 0.

    Raises:
        DataError: damaged numbers, or those of another size than (height, width).
    """
    try:
        content = np.array(rle, dtype=np.uint8)
        if content.ndim != 1 or not np.array_equal(content, rle):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise DataError("a brush mask is not a list of numbers from 0 to 255") from None
    bits = _Bits(np.unpackbits(content).tobytes())
    count, word = bits.read(32), bits.read(5) + 1
    sizes = [bits.read(4) + 1 for _ in range(4)]
    expected = 4 * size[0] * size[1]
    if count != expected:
        raise DataError(f"a brush mask holds {count:,} values; expected 4 x {size[0]} x {size[1]} = {expected:,}")
    values = np.empty(count, dtype=np.uint32)
    at = 0
    while at < count:
        run = bits.read(1)
        stop = at + 1 + bits.read(sizes[bits.read(2)])
        if stop > count:
            raise DataError("a brush mask is damaged: a run is longer than the image")
        if run:
            values[at:stop] = bits.read(word)
        else:
            values[at:stop] = [bits.read(word) for _ in range(stop - at)]
        at = stop
    return values.reshape(*size, 4)[:, :, 3] > 0


class _Bits:
    """Reads numbers of any width from bytes of value 0 and 1."""

    def __init__(self, bits: bytes) -> None:
        self.text = bits.translate(bytes.maketrans(b"\0\1", b"01"))
        self.at = 0

    def read(self, width: int) -> int:
        part = self.text[self.at : self.at + width]
        if len(part) < width:
            raise DataError("a brush mask is damaged: its end is missing")
        self.at += width
        return int(part, 2)
