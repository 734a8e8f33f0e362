"""Label Studio's brush code against bytes that Label Studio's own converter wrote (label_studio_sdk 2.1.2, mask2rle)."""

from __future__ import annotations

import numpy as np
import pytest

from talk2dino.annotations.brush_rle import decode_brush, encode_brush
from talk2dino.errors import DataError

#: mask2rle of DISC: a disc in 13 x 17 pixels whose row 3 is inverted.
WRITTEN_BY_LABEL_STUDIO = [
    0, 0, 3, 116, 57, 27, 254, 91, 0, 194, 127, 248, 172, 3, 13, 255, 225, 48, 11, 255, 248, 140, 2, 255, 253, 176, 12, 87,
    255, 133, 192, 49, 95, 254, 23, 0, 197, 127, 248, 92, 3, 21, 255, 225, 112, 12, 87, 255, 134, 192, 49, 31, 254, 35, 0,
    195, 127, 248, 172, 3, 9, 255, 229, 176, 0,
]  # fmt: skip


def disc() -> np.ndarray:
    rows, columns = np.mgrid[:13, :17]
    mask = (rows - 6) ** 2 + (columns - 8) ** 2 < 30
    mask[3] ^= True
    return mask


def test_writes_the_bytes_of_label_studios_own_converter():
    assert encode_brush(disc()) == WRITTEN_BY_LABEL_STUDIO


def test_reads_the_bytes_of_label_studios_own_converter():
    assert np.array_equal(decode_brush(WRITTEN_BY_LABEL_STUDIO, (13, 17)), disc())


def test_reads_single_values_which_only_the_browser_writes():
    """Two pixels, the first outside: 8 values, not one of them in a run of repeated values."""
    values = [0, 0, 0, 0, 255, 255, 255, 255]
    bits = (
        f"{8:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}" + "0" + "00" + f"{7:03b}" + "".join(f"{v:08b}" for v in values)
    )
    bits += "0" * (-len(bits) % 8)
    rle = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert decode_brush(rle, (1, 2)).tolist() == [[False, True]]


@pytest.mark.parametrize("size", [(1, 1), (13, 17), (211, 307)])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 1])
def test_round_trip(size, share):
    mask = np.random.default_rng(7).random(size) < share
    assert np.array_equal(decode_brush(encode_brush(mask), size), mask)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        (WRITTEN_BY_LABEL_STUDIO[:20], "ends after 20 bytes"),
        ([], "ends after 0 bytes"),
        ([255] * 40, r"4,294,967,295 values, expected 884"),
        ([300], "integers from 0 to 255"),
        (["a"], "integers from 0 to 255"),
        (WRITTEN_BY_LABEL_STUDIO[:7] + [255] * 60, "a run ends at value"),
    ],
)
def test_damaged_masks_are_refused(rle, message):
    with pytest.raises(DataError, match=message):
        decode_brush(rle, (13, 17))
