"""Labelling formats, written and read. In the order in which an export uses them:

- types: an image with its objects, the value between a segmentation and every format; objects, parts, peaks: from labels to
  objects; outlines, fill: from masks to polygons and back.
- coco, cvat, voc, label_studio, labelme, yolo, geojson: one module per format; formats lists them by name.
- checks, archives, png, sizes, streams, writing: what the formats share.
"""

from talk2dino.annotations.formats import FORMATS, load_annotations, save_annotations
from talk2dino.annotations.objects import ObjectOptions
from talk2dino.annotations.outlines import OutlineOptions
from talk2dino.annotations.types import AnnotatedImage, AnnotatedObject, Annotations
from talk2dino.annotations.writing import WriteOptions

__all__ = [
    "FORMATS", "AnnotatedImage", "AnnotatedObject", "Annotations", "ObjectOptions", "OutlineOptions", "WriteOptions",
    "load_annotations", "save_annotations",
]  # fmt: skip
