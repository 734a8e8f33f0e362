"""Label files: PNGs whose values are class indices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from talk2dino.errors import DataError


def read_index_png(path: Path) -> np.ndarray:
    """Read the values of a palette, 8-bit or 16-bit grey PNG; the colours of a palette are ignored.

    Returns:
        (H, W) int32.

    Raises:
        DataError: the file is missing, damaged, or a colour image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            mode, indices = image.mode, np.asarray(image)
    except FileNotFoundError:
        raise DataError(f"no label file at {path}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read the label file {path}: damaged, or not an image ({error})") from None
    if mode not in ("P", "L", "1", "I;16", "I;16B", "I"):
        raise DataError(
            f"the label file {path} is a colour image (mode {mode}); expected class indices: a palette, 8-bit or 16-bit "
            "grey PNG"
        )
    return indices.astype(np.int32)
