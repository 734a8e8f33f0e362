"""What labelling formats cost: time beside the segmentation, IoU and corners of polygons, memory of large data sets.

    python benchmarks/formats.py                        # about four minutes on two cores
    python benchmarks/formats.py --quick                # under one minute, fewer images and turns
    python benchmarks/formats.py --only memory --images 100000

cost      Seconds of a folder run with ViT-B (random weights, 640 x 480 JPEGs, 20 classes) that writes label PNGs and a labelling
          format, over those of one that writes label PNGs only: runs in turns, median. Random weights make many small areas.
polygons  Masks of micro on drawn scenes, as polygons and back: the mean IoU of the objects and the lowest one, and the corners
          and kilobytes (LabelMe) per image.
memory    Peak memory of a process that writes the file of a data set, for 1,000 images and for --images; Linux.
split     Drawn scenes with one to three touching objects of one kind: share of the scenes in which the right number is found, from
          the drawn masks and the attention of micro.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from talk2dino.annotations import AnnotatedImage, ObjectOptions, OutlineOptions, WriteOptions
from talk2dino.annotations.collecting import LINES, Collection
from talk2dino.annotations.labelme import document
from talk2dino.annotations.objects import find_objects
from talk2dino.annotations.outlines import image_polygons, polygon_iou
from talk2dino.io.journal import Journal
from talk2dino.io.markdown import markdown_table

SECTIONS = ("cost", "polygons", "memory", "split")
GOAL = 1.10
#: What is measured: name of the row -> kinds of --save, options of objects, options of writing.
RUNS: dict[str, tuple[str, ObjectOptions, WriteOptions]] = {
    "coco, masks": ("coco", ObjectOptions(), WriteOptions()),
    "coco, masks, instances of 50 pixels": ("coco", ObjectOptions(instances=True, smallest_area=50), WriteOptions()),
    "coco, exact polygons": ("coco", ObjectOptions(), WriteOptions(polygons=True)),
    "cvat, masks": ("cvat", ObjectOptions(), WriteOptions()),
    "cvat-masks": ("cvat-masks", ObjectOptions(), WriteOptions()),
    "label-studio, brush": ("label-studio", ObjectOptions(), WriteOptions()),
    "yolo, polygons within 1 pixel": ("yolo", ObjectOptions(), WriteOptions(outline=OutlineOptions(tolerance=1))),
}
POLYGONS = {
    "exact": OutlineOptions(), "within 0.5 pixels": OutlineOptions(tolerance=0.5), "within 1 pixel": OutlineOptions(tolerance=1),
    "within 2 pixels": OutlineOptions(tolerance=2), "IoU at least 0.98": OutlineOptions(iou=0.98),
    "IoU at least 0.95": OutlineOptions(iou=0.95), "IoU at least 0.9": OutlineOptions(iou=0.9),
}  # fmt: skip
CLASSES = ("sky", "grass", "sand", "water", "road", "wall", "ball", "house", "tree", "car", "boat", "fish")


def cost(quick: bool) -> None:
    from talk2dino.folder import FolderOptions, run_folder
    from talk2dino.io.settings import build_options
    from talk2dino.speed.workload import class_names, load, write_photographs
    from talk2dino.words.prompts import read_prompts

    count, turns = (8, 1) if quick else (16, 3)
    segmenter = load("random-vitb")
    with tempfile.TemporaryDirectory() as name:
        paths = write_photographs(Path(name) / "images", count)

        def seconds(kinds: tuple[str, ...], objects: ObjectOptions, writing: WriteOptions) -> float:
            with tempfile.TemporaryDirectory() as out:
                values = {
                    "images": list(map(str, paths)), "prompts": read_prompts(class_names(20)), "out": out,
                    "save": ("palette", *kinds), "objects": objects, "writing": writing,
                }  # fmt: skip
                options = build_options(FolderOptions, values)
                started = time.perf_counter()
                if run_folder(options, segmenter=segmenter).failed:
                    raise SystemExit("an image failed")
                return time.perf_counter() - started

        seconds((), ObjectOptions(), WriteOptions())  # compiles the kernels
        rows = []
        for title, (kind, objects, writing) in RUNS.items():
            plain = [seconds((), ObjectOptions(), WriteOptions())]
            ratios = []
            for _ in range(turns):  # a plain run before and after each
                taken = seconds((kind,), objects, writing)
                plain.append(seconds((), ObjectOptions(), WriteOptions()))
                ratios.append(2 * taken / (plain[-2] + plain[-1]))
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            rows.append(
                (title, f"{statistics.median(ratios):.2f}", spread, GOAL, f"{count / statistics.median(plain):.2f}")
            )
    print(markdown_table(("format", "time", "turns", "goal", "images/s without it"), rows, align="lrrrr"))


def drawn_images(count: int, size: int = 240) -> Iterator[AnnotatedImage]:
    """Drawn scenes as micro labels them."""
    from talk2dino import Segmenter
    from talk2dino.world import render, sample_scene

    segmenter = Segmenter.from_pretrained("micro", dtype="float32")
    text = segmenter.encode_text(list(CLASSES))
    for i in range(count):
        seg = segmenter.segment(render(sample_scene(60_000_000 + i), size).image, text, return_evidence=True)
        yield AnnotatedImage(f"{i:06d}.png", seg.size, seg.objects(instances=True, smallest_area=20))


def polygons(quick: bool) -> None:
    images = list(drawn_images(10 if quick else 100))
    rows = []
    for title, options in POLYGONS.items():
        ious, corners, size = [], 0, 0
        for image in images:
            for one, parts in zip(image.objects, image_polygons(image, options), strict=True):
                x, y, _, _ = one.box
                ious.append(polygon_iou(one.crop, [tuple(ring - (x, y) for ring in part) for part in parts]))
                corners += sum(len(ring) for part in parts for ring in part)
            size += len(json.dumps(document(image, options, image.name)))
        each = len(images)
        figures = (f"{np.mean(ious):.4f}", f"{min(ious):.4f}", round(corners / each), f"{size / each / 1000:.1f}")
        rows.append((title, *figures))
    objects = sum(len(image.objects) for image in images)
    print(f"{len(images)} images, {objects} objects of at least 20 pixels\n")
    print(
        markdown_table(("polygons", "mean IoU", "lowest IoU", "corners per image", "kB per image"), rows, align="lrrrr")
    )


def memory(quick: bool, count: int) -> None:
    few, rows = 1000, []
    made = list(drawn_images(8, 160))
    for kind in ("coco",) if quick else ("coco", "coco-panoptic", "cvat", "cvat-masks", "label-studio", "yolo"):
        peaks, taken = [], 0.0
        for many in (few, count):
            with tempfile.TemporaryDirectory() as out:
                places = write_lines(Path(out), made, many)
                (Path(out) / "places.json").write_text(json.dumps(places))
                command = [sys.executable, __file__, "--write", kind, out]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                peak, taken = json.loads(done.stdout)
                peaks.append(peak)
        shown = [f"{peak / 1e6:.0f}" for peak in peaks]
        rows.append((kind, *shown, f"{peaks[1] / peaks[0]:.2f}", f"{count / taken:.0f}"))
    heads = ("format", f"MB, {few:,} images", f"MB, {count:,} images", "growth", "images/s")
    print(markdown_table(heads, rows, align="lrrrr"))


def write_lines(out: Path, images: list[AnnotatedImage], count: int) -> list[list[int]]:
    """What a folder run leaves before the last pass: a line per image, and where each line is."""
    places, start = [], 0
    with open(out / LINES, "wb") as file:
        for i in range(count):
            record = images[i % len(images)].as_record() | {"name": f"{i:07d}.png"}
            line = (json.dumps(record) + "\n").encode()
            file.write(line)
            places.append([start, len(line)])
            start += len(line)
    return places


def write_alone(kind: str, out: Path) -> None:
    """The last pass of a folder run, in this process; prints its peak memory in bytes and the seconds."""
    places = json.loads((out / "places.json").read_text())
    collection = Collection(out, [kind], ObjectOptions(instances=True), WriteOptions(), classes=CLASSES, paths=[])
    started = time.perf_counter()
    collection.write(places, "micro", Journal(out / "journal.jsonl"))
    taken = time.perf_counter() - started
    status = Path("/proc/self/status").read_text()  # getrusage would count the parent process, too
    peak = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024
    print(json.dumps([peak, taken]))


def split(quick: bool) -> None:
    """Objects of one kind in a row, their masks as drawn, and the attention of micro."""
    from talk2dino import Segmenter
    from talk2dino.world import render, sample_scene

    segmenter = Segmenter.from_pretrained("micro", dtype="float32")
    text = segmenter.encode_text(["object"])
    right: dict[tuple[str | None, int], list[bool]] = {}
    for i in range(30 if quick else 300):
        rng = np.random.default_rng(i)
        scene, number, radius = sample_scene(70_000_000 + i, aspect=1.6, things=1), 1 + i % 3, 20.0
        left = 48 * scene.aspect - (number - 1) * 0.75 * radius
        things = tuple(
            replace(scene.things[0], x=left + 1.5 * radius * k, y=48 + float(rng.uniform(-5, 5)), radius=radius,
                    angle=float(rng.normal(0, 0.16)))
            for k in range(number)
        )  # fmt: skip
        drawn = render(replace(scene, things=things), 192)
        labels = (drawn.regions >= 2).astype(np.int32)
        evidence = segmenter.segment(drawn.image, text, return_evidence=True).evidence
        ways: dict[str | None, int] = {}
        for way in (None, "attention", "shape"):
            options = ObjectOptions(instances=True, split=way, smallest_area=200)
            ways[way] = len(find_objects(labels, ("background", "object"), 0, options, evidence=evidence))
        if ways[None] == 1:  # else they do not touch, or an object has several parts
            for way, found in ways.items():
                right.setdefault((way, number), []).append(found == number)
    rows = [
        (way or "none", *(f"{100 * np.mean(right[way, number]):.0f} %" for number in (1, 2, 3)))
        for way in (None, "attention", "shape")
    ]
    scenes = sum(len(found) for (way, _), found in right.items() if way is None)
    print(f"{scenes} scenes\n")
    print(markdown_table(("--split", "1 object", "2 objects", "3 objects"), rows, align="lrrr"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--quick", action="store_true", help="fewer images and turns")
    parser.add_argument("--images", type=int, help="memory: images of the large data set [5,000; 2,000 with --quick]")
    parser.add_argument("--write", nargs=2, metavar=("FORMAT", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write_alone(given.write[0], Path(given.write[1]))
        return
    for section in given.only.split(","):
        print(f"\n## {section}\n", flush=True)
        if section == "memory":
            memory(given.quick, given.images or (2000 if given.quick else 5000))
        else:
            {"cost": cost, "polygons": polygons, "split": split}[section](given.quick)


if __name__ == "__main__":
    main()
