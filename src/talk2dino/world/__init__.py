"""Procedural scenes with exact masks and captions: data for training, tests and figures without a download.

    seed -> sample_scene -> Scene -> render -> image and labels -> write_captions -> captions

- ``vocabulary``: the 16 classes, their words in English and Chinese, and their colours
- ``textures``, ``shapes``: how backgrounds and objects look
- ``scene``: a scene from a seed, and its image at any size
- ``sentences``: captions of a scene
"""

from talk2dino.world.scene import Rendered, Scene, Thing, render, sample_scene
from talk2dino.world.sentences import all_caption_words, write_captions
from talk2dino.world.vocabulary import BACKGROUNDS, CLASS_NAMES, CLASSES, OBJECTS, Concept

__all__ = [
    "BACKGROUNDS", "CLASSES", "CLASS_NAMES", "OBJECTS", "Concept", "Rendered", "Scene", "Thing", "all_caption_words",
    "render", "sample_scene", "write_captions",
]  # fmt: skip
