"""The result of a shard of ``segment``: one Parquet file with one row per image.

key      string              as in the shard's list
width, height  int32         of the image; null if it failed
classes  list of {name, area, rle}   pixels and COCO's compressed run lengths of each class that has pixels
model    string
error    string              why the image failed, else null
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from talk2dino.errors import MissingExtraError
from talk2dino.types import Segmentation

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True)
class Row:
    """One image: its classes as (name, area in pixels, run lengths), or the reason why it failed."""

    key: str
    size: tuple[int, int] | None = None
    classes: tuple[tuple[str, int, str], ...] = ()
    model: str = ""
    error: str | None = None

    @classmethod
    def of(cls, key: str, result: Segmentation) -> Row:
        background = None if result.background is None else result.names[result.background]
        found = []
        for annotation in result.to_coco():
            name = result.names[annotation["category_id"]]
            if name != background:
                found.append((name, int(annotation["area"]), str(annotation["segmentation"]["counts"])))
        return cls(key, result.size, tuple(found), result.model)

    def as_list(self) -> list[Any]:
        """Values for JSON."""
        return [self.key, self.size, self.classes, self.model, self.error]

    @classmethod
    def of_list(cls, values: list[Any]) -> Row:
        key, size, classes, model, error = values
        return cls(key, size and tuple(size), tuple((name, area, rle) for name, area, rle in classes), model, error)


def schema() -> pyarrow.Schema:
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingExtraError.of("pyarrow", "scale", "writing results") from None
    one = pa.struct([("name", pa.string()), ("area", pa.int64()), ("rle", pa.string())])
    return pa.schema(
        [
            ("key", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("classes", pa.list_(one)),
            ("model", pa.string()), ("error", pa.string()),
        ]
    )  # fmt: skip


def encode_rows(rows: Sequence[Row]) -> bytes:
    """A Parquet file; equal rows give equal bytes with the same version of pyarrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = [
        {
            "key": row.key, "width": row.size and row.size[1], "height": row.size and row.size[0],
            "classes": [{"name": name, "area": area, "rle": rle} for name, area, rle in row.classes],
            "model": row.model or None, "error": row.error,
        }
        for row in rows
    ]  # fmt: skip
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(values, schema=schema()), file, compression="zstd", write_statistics=True)
    return file.getvalue()


def decode_rows(content: bytes) -> list[Row]:
    """The rows of a Parquet file."""
    import pyarrow.parquet as pq

    return [
        Row(
            row["key"], None if row["width"] is None else (row["height"], row["width"]),
            tuple((one["name"], one["area"], one["rle"]) for one in row["classes"] or ()), row["model"] or "", row["error"],
        )
        for row in pq.read_table(io.BytesIO(content)).to_pylist()
    ]  # fmt: skip


def count_reasons(rows: Sequence[Row]) -> Counter[str]:
    """How often each reason occurs; names of images are taken out, so that equal reasons count together."""
    return Counter((row.error or "").replace(row.key, "IMAGE") for row in rows if row.error)
