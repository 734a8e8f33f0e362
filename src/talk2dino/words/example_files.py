"""Examples in files, as the command line names them: ``my part=photo.jpg:mask.png``, ``...:x0,y0,x1,y1`` or ``...:x,y``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from talk2dino.errors import DataError, InputError
from talk2dino.io.index_png import read_index_png
from talk2dino.io.masks import read_segmentation
from talk2dino.io.names import readable

_NUMBERS = re.compile(r"[-+]?[\d.]+(\s*,\s*[-+]?[\d.]+)+$")
_FORM = "NAME=IMAGE:MASK.png, NAME=IMAGE:X0,Y0,X1,Y1 or NAME=IMAGE:X,Y"


@dataclass(frozen=True)
class ExampleFile:
    """One example: a class, an image file, and a region of it, which is a mask file, a box or a point."""

    name: str
    image: Path
    region: Path | tuple[float, ...]

    def digest(self) -> str:
        """What decides the example: the class and the contents of its files."""
        parts = [
            path.read_bytes() if path.is_file() else b"" for path in (self.image, self.region) if isinstance(path, Path)
        ]
        numbers = "" if isinstance(self.region, Path) else repr(self.region)
        return hashlib.sha256(b"\0".join([self.name.encode(), numbers.encode(), *parts])).hexdigest()[:16]


def parse_example(text: str) -> ExampleFile:
    """Read one example from the command line.

    Raises:
        InputError: not ``NAME=IMAGE:REGION``, a box or point of another number of values, or a file that does not exist.
    """
    name, _, rest = text.partition("=")
    image, _, region = rest.rpartition(":")
    if not name.strip() or not image or not region:
        raise InputError(f"the example {readable(text)} cannot be read; expected {_FORM}")
    found: Path | tuple[float, ...] = Path(region)
    if _NUMBERS.match(region.strip()):
        try:
            found = tuple(float(number) for number in region.split(","))
        except ValueError:
            found = ()
        if len(found) not in (2, 4):
            raise InputError(f"the example {readable(text)} needs 2 or 4 numbers after the image; expected {_FORM}")
    for path in (Path(image), found):
        if isinstance(path, Path) and not path.is_file():
            raise InputError(f"the example {readable(text)} names a file that does not exist: {readable(path)}")
    return ExampleFile(name.strip(), Path(image), found)


def read_example_files(given: Iterable[ExampleFile]) -> dict[str, list[tuple[Path, np.ndarray | tuple[float, ...]]]]:
    """The examples of each class, as :meth:`talk2dino.Segmenter.encode_examples` takes them.

    Raises:
        DataError: a mask that cannot be read. InputError: a label map that does not have the class.
    """
    found: dict[str, list[tuple[Path, np.ndarray | tuple[float, ...]]]] = {}
    for one in given:
        region = read_mask(one.region, one.name) if isinstance(one.region, Path) else one.region
        found.setdefault(one.name, []).append((one.image, region))
    return found


def read_mask(path: Path, name: str) -> np.ndarray:
    """(H, W) bool from a palette or grey PNG: the values other than 0, or the pixels of ``name`` in a saved segmentation.

    Raises:
        DataError: not such a file. InputError: a saved segmentation without a class of that name.
    """
    values = read_index_png(path)
    try:
        names = read_segmentation(path)["names"] if path.suffix.lower() == ".png" else ()
    except DataError:  # 1-bit and other masks that are no label maps
        names = ()
    if all(str(number).isdigit() for number in names):
        return values != 0
    if name not in names:
        raise InputError(
            f"the mask {readable(path)} is a saved segmentation without the class {name!r}; it has {', '.join(names[:8])}"
        )
    return values == names.index(name)
