"""Features of the frozen encoders: computed once, stored on disk, trained on as often as needed.

Read in this order: options (what to extract), encoders (the frozen models), extraction (images and captions to
features), writer (features to shards), manifest (what a store records about itself), store (shards opened for
training), conversion (the published feature files).
"""

from talk2dino.features.conversion import convert_published
from talk2dino.features.encoders import Encoders, load_encoders
from talk2dino.features.extraction import extract
from talk2dino.features.manifest import Manifest
from talk2dino.features.options import ExtractOptions
from talk2dino.features.store import FeatureStore
from talk2dino.features.writer import StoreWriter, merge_stores

__all__ = [
    "Encoders",
    "ExtractOptions",
    "FeatureStore",
    "Manifest",
    "StoreWriter",
    "convert_published",
    "extract",
    "load_encoders",
    "merge_stores",
]
