"""Miniature data sets in the folder layouts and file formats of the eight benchmarks.

Each has three grey images: one with several classes, one that is all background (or one class, where the data set has no
background), and one whose label is ignored everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from talk2dino.evaluation.class_tables import CITYSCAPES_IDS, CITYSCAPES_NAMES, COCO_STUFF_VALUES, COCO_THING_IDS
from talk2dino.evaluation.datasets import get_benchmark
from talk2dino.evaluation.metrics import IGNORE

#: (height, width) of the three images: distinct primes.
SIZES = ((53, 71), (61, 43), (47, 67))


def miniature_truth(benchmark: str) -> dict[str, np.ndarray]:
    """Name -> (H, W) class indices, 255 ignored, of the three images.

    The mixed image: left third class 1, middle third class 2, right third class 0, an ignored top row (where the
    format has ignored pixels) and the last class in the two bottom rows.
    """
    count = len(get_benchmark(benchmark).names)
    height, width = SIZES[0]
    mixed = np.zeros(SIZES[0], dtype=np.int32)
    mixed[:, : width // 3] = 1
    mixed[:, width // 3 : 2 * width // 3] = 2
    if benchmark not in ("coco-object", "context60"):  # no ignored pixels there
        mixed[0] = IGNORE
    mixed[height - 2 :] = count - 1
    empty = np.zeros(SIZES[1], dtype=np.int32)
    ignored = np.full(SIZES[2], IGNORE if benchmark not in ("coco-object", "context60") else 0, dtype=np.int32)
    return {"000000000139": mixed, "000000000285": empty, "000000000632": ignored}


def make_miniature(benchmark: str, root: Path, variant: str = "usual") -> dict[str, np.ndarray]:
    """Write a miniature of a benchmark below ``root`` and return its truth.

    Args:
        benchmark: one of the eight names.
        root: folder in the role of mmsegmentation's ``data``.
        variant: "usual"; for the COCO sets also "pixel-maps" and (objects) "instances"; for Cityscapes also "ids",
            "instance-ids" (16-bit) and "polygons".
    """
    truth = miniature_truth(benchmark)
    writers: dict[str, Callable[[Path, dict[str, np.ndarray], str], None]] = {
        "voc21": _voc, "voc20": _voc20, "context60": _context, "context59": _context59, "coco-stuff": _coco_stuff,
        "coco-object": _coco_object, "cityscapes": _cityscapes, "ade20k": _ade20k,
    }  # fmt: skip
    writers[benchmark](Path(root), truth, variant)
    return truth


def _save_image(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[: size[0], : size[1]]
    Image.fromarray((96 + 2 * ((rows + columns) % 32)).astype(np.uint8)).convert("RGB").save(path)


def _save_indices(path: Path, values: np.ndarray, palette: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if values.max(initial=0) > 255:
        Image.fromarray(values.astype(np.uint16)).save(path)
        return
    image = Image.fromarray(values.astype(np.uint8))
    if palette is not None:
        image.putpalette(np.asarray(palette, dtype=np.uint8).reshape(-1).tolist())
    image.save(path)


def _raised(labels: np.ndarray) -> np.ndarray:
    """The inverse of reduce_zero_label."""
    return np.where(labels == IGNORE, 0, labels + 1)


def _listed(root: Path, truth: dict[str, np.ndarray], folder: str, split: str, labels: str, palette: bool) -> None:
    base = root / "VOCdevkit" / folder
    listing = base / "ImageSets" / split / "val.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("\n".join(truth) + "\n", encoding="utf-8")
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[:21] = get_benchmark("voc21").palette
    for name, values in truth.items():
        _save_image(base / "JPEGImages" / f"{name}.jpg", values.shape)
        _save_indices(base / labels / f"{name}.png", values, colours if palette else None)


def _voc(root: Path, truth: dict[str, np.ndarray], variant: str) -> None:
    _listed(root, truth, "VOC2012", "Segmentation", "SegmentationClass", palette=True)


def _voc20(root: Path, truth: dict[str, np.ndarray], variant: str) -> None:
    # a VOC file has both: 0 (background) and 255 (borders); both are ignored in voc20
    raised = {name: _raised(labels) for name, labels in truth.items()}
    raised["000000000139"][0, ::2] = IGNORE
    _voc(root, raised, variant)


def _context(root: Path, truth: dict[str, np.ndarray], variant: str) -> None:
    _listed(root, truth, "VOC2010", "SegmentationContext", "SegmentationClassContext", palette=False)


def _context59(root: Path, truth: dict[str, np.ndarray], variant: str) -> None:
    _context(root, {name: _raised(labels) for name, labels in truth.items()}, variant)


def _coco_images(root: Path, truth: dict[str, np.ndarray]) -> Path:
    base = root / "coco_stuff164k"
    for name, labels in truth.items():
        _save_image(base / "images" / "val2017" / f"{name}.jpg", labels.shape)
    return base / "annotations"


def _coco_stuff(root: Path, truth: dict[str, np.ndarray], variant: str) -> None:
    folder = _coco_images(root, truth) / "val2017"
    raw = np.array([*COCO_STUFF_VALUES, *[IGNORE] * 85])
    for name, labels in truth.items():
        if variant == "pixel-maps":
            _save_indices(folder / f"{name}.png", raw[labels])
        else:
            _save_indices(folder / f"{name}_labelTrainIds.png", labels)


def _coco_object(root: Path, truth: dict[str, np.ndarray], variant: str) -> None:
    annotations = _coco_images(root, truth)
    stuff = np.array([COCO_STUFF_VALUES[100], *COCO_STUFF_VALUES[:80]])
    if variant == "instances":
        _instances(annotations / "instances_val2017.json", truth)
        return
    for name, labels in truth.items():
        if variant == "pixel-maps":
            values = stuff[labels]
            values[1, :5] = np.where(labels[1, :5] == 0, IGNORE, values[1, :5])  # unlabelled is background too
            _save_indices(annotations / "val2017" / f"{name}.png", values)
        else:
            _save_indices(annotations / "val2017" / f"{name}_instanceTrainIds.png", labels)


def _instances(path: Path, truth: dict[str, np.ndarray]) -> None:
    """Class 1 as a polygon (a rectangle), class 2 as uncompressed run lengths of a crowd, the others as polygons."""
    images, annotations = [], []
    for number, (name, labels) in enumerate(truth.items()):
        height, width = labels.shape
        images.append({"id": number, "file_name": f"{name}.jpg", "height": height, "width": width})
        for index in np.unique(labels[labels > 0]).tolist():
            rows, columns = np.nonzero(labels == index)
            left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            box = [left, top, right, top, right, bottom, left, bottom]
            mask = (labels == index).T.reshape(-1).astype(int)
            edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]])))
            counts = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
            counts = counts[:-1] if counts[-1] == 0 else counts
            crowd = index == 2
            annotations.append({
                "image_id": number, "category_id": COCO_THING_IDS[index - 1], "iscrowd": int(crowd),
                "area": len(rows),
                "segmentation": {"counts": counts, "size": [height, width]} if crowd else [[int(v) for v in box]],
            })  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}), encoding="utf-8")


def _cityscapes(root: Path, truth: dict[str, np.ndarray], variant: str) -> None:
    ids = np.zeros(256, dtype=np.int32)
    ids[: len(CITYSCAPES_IDS)] = CITYSCAPES_IDS
    for name, labels in truth.items():
        stem = f"munster_{name}_000019"
        _save_image(root / "cityscapes/leftImg8bit/val/munster" / f"{stem}_leftImg8bit.png", labels.shape)
        target = root / "cityscapes/gtFine/val/munster" / f"{stem}_gtFine_"
        if variant == "ids":
            _save_indices(Path(f"{target}labelIds.png"), ids[labels])
        elif variant == "instance-ids":
            things = ids[labels]
            _save_indices(Path(f"{target}instanceIds.png"), np.where(things >= 24, things * 1000 + 7, things))
        elif variant == "polygons":
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            Path(f"{target}polygons.json").write_text(json.dumps(_city_polygons(labels)), encoding="utf-8")
        else:
            _save_indices(Path(f"{target}labelTrainIds.png"), labels)


def _city_polygons(labels: np.ndarray) -> dict:
    """Vertical runs of equal class as rectangles; PIL's polygons include their last row and column."""
    height, width = labels.shape
    objects = []
    for column in range(width):
        changes = np.flatnonzero(np.diff(labels[:, column])) + 1
        for top, bottom in zip([0, *changes], [*changes, height], strict=True):
            index = int(labels[top, column])
            name = "unlabeled" if index == IGNORE else CITYSCAPES_NAMES[index]
            corners = [[column, int(top)], [column, int(bottom) - 1]]
            objects.append({"label": f"{name}group" if name == "bicycle" else name, "polygon": corners})
    return {"imgHeight": height, "imgWidth": width, "objects": objects}


def _ade20k(root: Path, truth: dict[str, np.ndarray], variant: str) -> None:
    base = root / "ade" / "ADEChallengeData2016"
    for name, labels in truth.items():
        _save_image(base / "images" / "validation" / f"{name}.jpg", labels.shape)
        _save_indices(base / "annotations" / "validation" / f"{name}.png", _raised(labels))
