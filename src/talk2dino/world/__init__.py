"""Procedural scenes with captions and exact masks."""

from talk2dino.world.captions import write_captions
from talk2dino.world.scene import Rendered, Scene, Thing, render, sample_scene
from talk2dino.world.vocabulary import BACKGROUNDS, CLASS_NAMES, CLASSES, OBJECTS, Concept

__all__ = [
    "BACKGROUNDS",
    "CLASSES",
    "CLASS_NAMES",
    "OBJECTS",
    "Concept",
    "Rendered",
    "Scene",
    "Thing",
    "render",
    "sample_scene",
    "write_captions",
]
