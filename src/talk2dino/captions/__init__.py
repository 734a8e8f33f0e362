"""Captioned images: where ``talk2dino extract`` reads from.

In reading order:

- :mod:`~talk2dino.captions.source`: what a caption source is. It numbers its records from 0; a record is one image with
  its captions, or a skipped one with the reason.
- :mod:`~talk2dino.captions.layouts`: from a path and a split to the source that reads it.
- One file per layout: :mod:`~talk2dino.captions.coco`, :mod:`~talk2dino.captions.text_files`,
  :mod:`~talk2dino.captions.metadata`, :mod:`~talk2dino.captions.webdataset`, :mod:`~talk2dino.captions.parquet`.
- What the layouts share: :mod:`~talk2dino.captions.files` reads one file, :mod:`~talk2dino.captions.fingerprint`
  recognises a changed source, :mod:`~talk2dino.captions.image_rows` groups the rows of one image, and
  :mod:`~talk2dino.captions.index` and :mod:`~talk2dino.captions.json_lists` keep the index of a million images small.
"""

from talk2dino.captions.layouts import open_source, open_sources
from talk2dino.captions.source import CaptionSource, FirstRecords, JoinedSources, Record, Skipped, make_record

__all__ = [
    "CaptionSource",
    "FirstRecords",
    "JoinedSources",
    "Record",
    "Skipped",
    "make_record",
    "open_source",
    "open_sources",
]
