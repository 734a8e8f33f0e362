"""The nine benchmarks: eight data sets in mmsegmentation's folder layout, and the procedural world.

Class names, palettes and ignored values are mmsegmentation's; see :mod:`talk2dino.evaluation.class_tables`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from talk2dino.errors import DataError, InputError, suggestion
from talk2dino.evaluation import class_tables as tables
from talk2dino.evaluation import label_files as formats
from talk2dino.evaluation.label_files import LabelReader
from talk2dino.evaluation.metrics import IGNORE
from talk2dino.evaluation.world import held_out_seeds
from talk2dino.io.images import read_image
from talk2dino.io.index_png import read_index_png
from talk2dino.io.palette import class_palette
from talk2dino.io.settings import read_lines
from talk2dino.world import CLASS_NAMES as WORLD_NAMES
from talk2dino.world import render, sample_scene


@dataclass(frozen=True)
class Sample:
    """One image of a benchmark with its label.

    Attributes:
        name: unique within the benchmark.
        load: reads (H, W, 3) uint8 RGB and (H, W) class indices, 255 ignored.
        source: the kind of file that the label comes from, such as "NAME_labelTrainIds.png".
    """

    name: str
    load: Callable[[], tuple[np.ndarray, np.ndarray]]
    source: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A data set, its classes, and the protocol of its published figures.

    Attributes:
        names, palette: the classes in label order, and their colours.
        folders: where below ROOT the data set may lie. The first that exists is used, else ROOT itself.
        tree: the expected layout, shown when something is missing.
        list_samples: lists the images of the data set's folder.
        mode: how the published protocol sees an image.
        clean: whether the published figures use background cleaning.
    """

    name: str
    names: tuple[str, ...]
    palette: tables.Palette
    folders: tuple[str, ...]
    tree: str
    list_samples: Callable[[Benchmark, Path], list[Sample]]
    mode: Literal["slide", "whole"] = "slide"
    clean: bool = False

    @property
    def background(self) -> bool:
        """Whether class 0 is the background, which has a threshold instead of a prompt."""
        return self.names[0] == "background"

    @property
    def prompts(self) -> tuple[str, ...]:
        """The names of the classes other than the background."""
        return self.names[1:] if self.background else self.names

    @property
    def on_disk(self) -> bool:
        """False for the world, which is drawn."""
        return bool(self.folders)


def open_benchmark(name: str, root: str | Path | None = None) -> tuple[Benchmark, list[Sample]]:
    """Find the images and labels of a benchmark on disk.

    Args:
        name: one of :data:`BENCHMARKS`.
        root: mmsegmentation's ``data`` folder, or the folder of the data set. Not needed for "world".

    Raises:
        InputError: unknown benchmark, or no ``root``.
        DataError: a folder or file of the layout is missing; the message shows the expected tree.
    """
    benchmark = get_benchmark(name)
    if not benchmark.on_disk:
        return benchmark, benchmark.list_samples(benchmark, Path())
    if root is None:
        raise InputError(f"the benchmark {name} needs data: pass --data ROOT, where ROOT contains\n{benchmark.tree}")
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"no folder at {root}; the benchmark {name} expects\n{benchmark.tree}")
    places = (root / folder for folder in benchmark.folders if (root / folder).is_dir())
    samples = benchmark.list_samples(benchmark, next(places, root))
    if not samples:
        raise _incomplete(benchmark, "no images")
    return benchmark, samples


def get_benchmark(name: str) -> Benchmark:
    """Look up a benchmark by name.

    Raises:
        InputError: unknown name; similar names are suggested.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    near = suggestion(name.replace("_", "-"), BENCHMARKS, cutoff=0.6)
    raise InputError(f"unknown benchmark {name!r}{near or ';'} known benchmarks: {', '.join(BENCHMARKS)}")


def _incomplete(benchmark: Benchmark, what: str) -> DataError:
    return DataError(f"benchmark {benchmark.name}: {what}; expected below ROOT\n{benchmark.tree}")


def _load(image: Path, read_label: Callable[[], np.ndarray], classes: int, first: int) -> tuple[np.ndarray, np.ndarray]:
    """``first``: the value of class 0 in the label file."""
    truth, pixels = read_label(), read_image(image).array
    if pixels.shape[:2] != truth.shape:
        raise DataError(f"{image} is {pixels.shape[:2]}, but its label is {truth.shape} (height, width)")
    outside = np.unique(truth[(truth != IGNORE) & ((truth < 0) | (truth >= classes))])
    if outside.size:
        raise DataError(
            f"the label of {image} has values outside the class list {first}..{classes - 1 + first}: "
            f"{', '.join(str(value + first) for value in outside[:8])}"
        )
    return pixels, truth


def _sample(benchmark: Benchmark, name: str, image: Path, label: Path, read: LabelReader) -> Sample:
    first = 1 if read is formats.read_reduced else 0
    source = label.name.replace(Path(name).name, "NAME")
    return Sample(name, partial(_load, image, partial(read, label), len(benchmark.names), first), source)


def _require(benchmark: Benchmark, *paths: Path) -> None:
    for path in paths:
        if not path.exists():
            raise _incomplete(benchmark, f"no {path}")


def _list_images(folder: Path, ending: str) -> list[tuple[str, Path]]:
    """(path below the folder without its ending, image), sorted, with subfolders and without hidden files, as in mmcv."""
    found = []
    for base, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(base) / name for name in files if name.endswith(ending) and not name.startswith(".")]
        found += [(path.relative_to(folder).as_posix().removesuffix(ending), path) for path in paths]
    return sorted(found)


def _split_file(benchmark: Benchmark, folder: Path, *, split: str, labels: str, read: LabelReader) -> list[Sample]:
    """Pascal VOC and Pascal Context: a text file lists the images."""
    listing = folder / "ImageSets" / split / "val.txt"
    _require(benchmark, folder / "JPEGImages", folder / labels, listing)
    samples = []
    for stem in dict.fromkeys(read_lines(listing, "list of images")):  # a repeated name counts once
        image, label = folder / "JPEGImages" / f"{stem}.jpg", folder / labels / f"{stem}.png"
        _require(benchmark, image, label)
        samples.append(_sample(benchmark, stem, image, label, read))
    return samples


def _paired_folders(
    benchmark: Benchmark, folder: Path, *, images: str, labels: str, ending: str, kinds: Mapping[str, LabelReader],
    instances: str = "", short_names: bool = False,
) -> list[Sample]:  # fmt: skip
    """The others: the label of an image is the first of ``kinds`` (ending -> reader) that exists, else ``instances``."""
    drawn = bool(instances) and (folder / instances).is_file()
    _require(benchmark, folder / images, *([] if drawn else [folder / labels]))
    samples = []
    for name, image in _list_images(folder / images, ending):
        given = ((folder / labels / f"{name}{end}", read) for end, read in kinds.items())
        found = next(((label, read) for label, read in given if label.is_file()), None)
        if found is None and drawn:
            found = folder / instances, partial(formats.instances_to_objects, stem=image.stem)
        if found is None:
            raise _incomplete(benchmark, f"no label for {image} in {(folder / labels / name).parent}")
        samples.append(_sample(benchmark, Path(name).name if short_names else name, image, *found))
    return samples


def world_samples(
    seeds: Sequence[int], *, height: int = 96, aspect: float = 1.0, held_out: bool | Literal["all"] = False
) -> list[Sample]:
    """Scenes as samples; the name of a sample is its seed."""

    def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = render(sample_scene(seed, aspect=aspect, held_out=held_out), height)
        return drawn.image, drawn.labels

    return [Sample(str(seed), partial(draw, seed)) for seed in seeds]


_VOC_TREE = """\
  VOCdevkit/VOC2012/
    ImageSets/Segmentation/val.txt     one name per line
    JPEGImages/NAME.jpg
    SegmentationClass/NAME.png         palette PNG, 0 background, 255 ignored"""
_CONTEXT_TREE = """\
  VOCdevkit/VOC2010/
    ImageSets/SegmentationContext/val.txt
    JPEGImages/NAME.jpg
    SegmentationClassContext/NAME.png  0 background, 1..59 classes"""
_COCO_TREE = """\
  coco_stuff164k/
    images/val2017/NAME.jpg
    annotations/val2017/NAME{suffix}   or NAME.png, COCO-Stuff's pixel map{more}"""
_COCO_INSTANCES = "\n    annotations/instances_val2017.json   instead of these label files"
_CITY_TREE = """\
  cityscapes/
    leftImg8bit/val/CITY/NAME_leftImg8bit.png
    gtFine/val/CITY/NAME_gtFine_labelTrainIds.png   or _labelIds.png, _instanceIds.png (16-bit), _polygons.json"""
_ADE_TREE = """\
  ade/ADEChallengeData2016/
    images/validation/NAME.jpg
    annotations/validation/NAME.png    0 ignored, 1..150 classes"""

_VOC = ("VOCdevkit/VOC2012", "VOC2012")
_CONTEXT = ("VOCdevkit/VOC2010", "VOC2010")
_COCO = ("coco_stuff164k", "coco")
_voc = partial(_split_file, split="Segmentation", labels="SegmentationClass")
_context = partial(_split_file, split="SegmentationContext", labels="SegmentationClassContext")
_coco = partial(_paired_folders, images="images/val2017", labels="annotations/val2017", ending=".jpg")
_cityscapes = partial(
    _paired_folders, images="leftImg8bit/val", labels="gtFine/val", ending="_leftImg8bit.png", short_names=True, kinds={
        "_gtFine_labelTrainIds.png": read_index_png, "_gtFine_labelIds.png": formats.read_city_ids,
        "_gtFine_instanceIds.png": formats.read_city_ids, "_gtFine_polygons.json": formats.read_city_polygons,
    },
)  # fmt: skip
_ade20k = partial(
    _paired_folders, images="images/validation", labels="annotations/validation", ending=".jpg",
    kinds={".png": formats.read_reduced},
)  # fmt: skip

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("voc21", tables.VOC21_NAMES, tables.VOC21_PALETTE, _VOC, _VOC_TREE, partial(_voc, read=read_index_png),
                  clean=True),
        Benchmark("voc20", tables.VOC20_NAMES, tables.VOC20_PALETTE, _VOC, _VOC_TREE,
                  partial(_voc, read=formats.read_reduced)),
        Benchmark("context60", tables.CONTEXT60_NAMES, tables.CONTEXT60_PALETTE, _CONTEXT, _CONTEXT_TREE,
                  partial(_context, read=read_index_png)),
        Benchmark("context59", tables.CONTEXT59_NAMES, tables.CONTEXT59_PALETTE, _CONTEXT, _CONTEXT_TREE,
                  partial(_context, read=formats.read_reduced)),
        Benchmark("coco-stuff", tables.COCO_STUFF_NAMES, tables.COCO_STUFF_PALETTE, _COCO,
                  _COCO_TREE.format(suffix="_labelTrainIds.png", more=""),
                  partial(_coco, kinds={"_labelTrainIds.png": read_index_png, ".png": formats.read_stuff_map})),
        Benchmark("coco-object", tables.COCO_OBJECT_NAMES, tables.COCO_OBJECT_PALETTE, _COCO,
                  _COCO_TREE.format(suffix="_instanceTrainIds.png", more=_COCO_INSTANCES),
                  partial(_coco, instances="annotations/instances_val2017.json",
                          kinds={"_instanceTrainIds.png": read_index_png, ".png": formats.read_stuff_map_as_objects}),
                  clean=True),
        Benchmark("cityscapes", tables.CITYSCAPES_NAMES, tables.CITYSCAPES_PALETTE, ("cityscapes",), _CITY_TREE,
                  _cityscapes),
        Benchmark("ade20k", tables.ADE20K_NAMES, tables.ADE20K_PALETTE,
                  ("ade/ADEChallengeData2016", "ADEChallengeData2016"), _ADE_TREE, _ade20k),
        Benchmark("world", WORLD_NAMES, tuple(map(tuple, class_palette(WORLD_NAMES).tolist())), (), "",
                  lambda benchmark, folder: world_samples(held_out_seeds()), mode="whole"),
    )
}  # fmt: skip
