"""Captioned images: where ``talk2dino extract`` reads from.

- ``source``: what a caption source is. It numbers its records from 0; a record is one image with its captions, or a
  skipped one with the reason.
- ``layouts``: from a path and a split to the source that reads it.
- ``coco``, ``text_files``, ``metadata``, ``webdataset``, ``parquet``: one file per layout.
- ``files`` reads files and recognises changed ones; ``image_rows`` groups the rows of one image; ``index`` and
  ``json_lists`` keep the index of a million images small.
"""

from talk2dino.captions.layouts import open_source, open_sources
from talk2dino.captions.source import CaptionSource, FirstRecords, JoinedSources, Record, Skipped, make_record

__all__ = [
    "CaptionSource", "FirstRecords", "JoinedSources", "Record", "Skipped", "make_record", "open_source", "open_sources",
]  # fmt: skip
