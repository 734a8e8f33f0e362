"""Label Studio's run-length code for brush masks.

Label Studio stores a mask as an image of RGBA values, row by row, packed with the RLE of thi.ng/rle-pack:

    32 bits: number of values (4 H W)     5 bits: bits per value - 1     4 x 4 bits: bits of each of four run sizes - 1
    then for each run:  1 bit: 1 = one repeated value, 0 = single values;  2 bits: which run size;  length - 1;  value(s)

All four channels of a pixel hold 255 inside the mask and 0 outside, so each run of pixels is a run of four times as many
values. Source: label_studio_sdk/converter/brush.py, with which ``tests/annotations/test_brush_rle.py`` compares.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from talk2dino.errors import DataError

_CHANNELS = 4
_VALUE_BITS = 8
_SIZES = (3, 4, 8, 16)
_HEADER = 32 + 5 + 4 * len(_SIZES)


def encode_brush(mask: np.ndarray) -> list[int]:
    """(H, W) bool mask -> the bytes of Label Studio's ``value.rle``, as integers 0..255."""
    mask = np.asarray(mask, dtype=bool)
    return encode_brush_crop(mask, (0, 0), (mask.shape[0], mask.shape[1]))


def encode_brush_crop(crop: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> list[int]:
    """:func:`encode_brush` of a mask that is empty outside a box.

    Args:
        crop: (h, w) bool, the mask within the box. corner: (x, y) of the box. size: (height, width) of the image.
    """
    (height, width), (left, top) = size, corner
    framed = np.zeros((crop.shape[0], crop.shape[1] + 2), dtype=np.int8)
    framed[:, 1:-1] = crop
    rows, columns = np.nonzero(np.diff(framed, axis=1))  # where a row enters or leaves the mask
    edges = (rows + top) * width + columns + left
    if width == crop.shape[1]:  # a run goes on in the next row
        goes_on = np.flatnonzero(edges[1:-1:2] == edges[2::2])
        edges = np.delete(edges, np.concatenate([2 * goes_on + 1, 2 * goes_on + 2]))
    bounds = np.concatenate([[0], edges, [height * width]])
    lengths, inside = np.diff(bounds), np.arange(len(bounds) - 1) % 2 == 1
    lengths, values = _split(_CHANNELS * lengths[lengths > 0], inside[lengths > 0])
    total = _CHANNELS * height * width
    header = _bits([total], 32), _bits([_VALUE_BITS - 1], 5), *(_bits([size - 1], 4) for size in _SIZES)
    bits = np.concatenate([*(part.ravel() for part in header), _run_bits(lengths, values)])
    return np.packbits(bits).tolist()


def decode_brush(rle: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """The bytes of ``value.rle`` -> (H, W) bool mask: the pixels whose alpha is above 0.

    Args:
        size: (height, width) that the annotation states; checked before anything is allocated.

    Raises:
        DataError: damaged bytes, or a number of values that does not fit the size.
    """
    height, width = size
    expected = _CHANNELS * height * width
    reader = _Reader(rle)
    count = reader.read(32)
    if count != expected:
        raise DataError(f"the brush mask has {count:,} values, expected {expected:,} for {height} x {width} pixels")
    value_bits = reader.read(5) + 1
    sizes = [reader.read(4) + 1 for _ in range(4)]
    values = np.zeros(count, dtype=bool)
    done = 0
    while done < count:
        repeated = reader.read(1)
        end = done + 1 + reader.read(sizes[reader.read(2)])
        if end > count:
            raise DataError(f"the brush mask is damaged: a run ends at value {end:,} of {count:,}")
        if repeated:
            values[done:end] = reader.read(value_bits) > 0
        else:
            values[done:end] = [reader.read(value_bits) > 0 for _ in range(end - done)]
        done = end
    return values.reshape(height, width, _CHANNELS)[:, :, 3]


def _split(lengths: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs of at most 2**16 values, which is what the longest run size can hold."""
    longest = 1 << _SIZES[-1]
    pieces = -(-lengths // longest)
    split = np.full(int(pieces.sum()), longest, dtype=np.int64)
    split[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * longest
    return split, np.repeat(values, pieces)


def _run_bits(lengths: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The bits of all runs, each with the smallest of the four sizes that holds it."""
    kind = np.searchsorted([1 << size for size in _SIZES], lengths)
    widths = np.array(_SIZES)[kind]
    ones = np.ones((len(lengths), 1), dtype=np.uint8)
    length_bits = _bits(lengths - 1, _SIZES[-1])
    value_bits = _bits(np.where(values, 255, 0), _VALUE_BITS)
    bits = np.concatenate([ones, _bits(kind, 2), length_bits, value_bits], axis=1)
    keep = np.ones(bits.shape, dtype=bool)
    keep[:, 3 : 3 + _SIZES[-1]] = np.arange(_SIZES[-1]) >= _SIZES[-1] - widths[:, None]
    return bits[keep]


def _bits(numbers: Sequence[int] | np.ndarray, width: int) -> np.ndarray:
    """(R,) integers -> (R, width) bits, most significant first."""
    shifts = np.arange(width - 1, -1, -1)
    return ((np.asarray(numbers, dtype=np.int64)[:, None] >> shifts) & 1).astype(np.uint8)


class _Reader:
    """Bits of a sequence of bytes, from the first on."""

    def __init__(self, content: Sequence[int]) -> None:
        try:
            self._content = bytes(content)
        except (TypeError, ValueError):
            raise DataError("a brush mask must be a list of integers from 0 to 255") from None
        self._position = 0

    def read(self, width: int) -> int:
        first, end = self._position, self._position + width
        if end > 8 * len(self._content):
            raise DataError(f"the brush mask is damaged: it ends after {len(self._content):,} bytes")
        self._position = end
        word = int.from_bytes(self._content[first // 8 : (end + 7) // 8], "big")
        return (word >> (-end % 8)) & ((1 << width) - 1)
