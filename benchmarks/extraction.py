"""Images per second of extraction, relative to the bare vision model, and its memory, on this machine.

    python benchmarks/extraction.py                       # 640 x 480 JPEGs, ViT-B/14 with random weights at 448
    python benchmarks/extraction.py --memory 32768        # peak memory by the number of images, and the size of indices
    python benchmarks/extraction.py --memory 8000 --encoders micro --records-per-shard 256 --index-records 0

- Bare: the vision model alone on one batch in memory, with the same batch size and dtype.
- Ours: `extract` from JPEG files on disk to a finished store, including decoding, the text model (a CLIP ViT-B/16 text tower
  with random weights, five captions per image) and writing.

The two take turns, so that other work on the machine slows both.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from talk2dino.captions import CaptionSource, FirstRecords, open_source
from talk2dino.features.encoders import Encoders, load_encoders
from talk2dino.features.extraction import extract
from talk2dino.features.options import ExtractOptions
from talk2dino.models.text import TextEncoder
from talk2dino.models.tokenizer import TextTokenizer
from talk2dino.speed.workload import random_parts

COCO_IMAGES = 82_783
GOAL = 0.85  # of the bare backbone
WORDS = [
    "a",
    "man",
    "riding",
    "wave",
    "on",
    "top",
    "of",
    "surfboard",
    "two",
    "dogs",
    "in",
    "the",
    "grass",
    "near",
    "red",
    "bus",
    "with",
    "people",
    "standing",
]


def photographs(folder: Path, count: int, size: tuple[int, int] = (640, 480)) -> CaptionSource:
    """JPEGs of the file size of photographs (smooth shapes and noise), with five captions each."""
    rows, columns = np.mgrid[: size[1], : size[0]] / 100
    lines = []
    for n in range(count):
        rng = np.random.default_rng(n)
        waves = [
            np.sin(rng.uniform(0.2, 3) * rows + rng.uniform(0.2, 3) * columns + rng.uniform(0, 6)) for _ in range(9)
        ]
        image = 128 + 35 * np.stack([sum(waves[c::3]) for c in range(3)], axis=-1) + rng.normal(0, 9, (*size[::-1], 3))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{n}.jpg", quality=90)
        captions = [" ".join(rng.choice(WORDS, rng.integers(8, 14))) for _ in range(5)]
        lines.append(json.dumps({"file_name": f"{n}.jpg", "captions": captions}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return open_source(folder)


def random_encoders(dtype: torch.dtype) -> Encoders:
    """DINOv2 ViT-B/14 with registers and CLIP ViT-B/16's text tower, with random weights."""
    parts = random_parts("random-vitb")
    vision = parts.vision.to(dtype)
    text = TextEncoder(parts.text.model, TextTokenizer.clip(), cache_size=0)
    return Encoders(vision, lambda lines: text.embed(lines, truncate=True), 12, 768, 512, 448, 14, {"name": "random"})


def speed(options: argparse.Namespace) -> dict:
    dtype = getattr(torch, options.dtype)
    encoders = random_encoders(dtype)
    pixels = torch.randn(options.batch, 3, 448, 448, dtype=dtype)
    bare, ours = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = photographs(folder, options.images)

        def backbone_alone() -> float:
            with torch.inference_mode():
                started = time.perf_counter()
                for _ in range(options.images // options.batch):
                    encoders.vision(pixels)
            return options.images / (time.perf_counter() - started)

        def extraction(turn: int) -> float:
            started = time.perf_counter()
            settings = ExtractOptions(out=folder / f"store{turn}", batch_size=options.batch, workers=options.workers)
            manifest = extract(settings, source=source, encoders=encoders)
            assert manifest.images == options.images
            return options.images / (time.perf_counter() - started)

        with torch.inference_mode():
            encoders.vision(pixels)
        bare.append(backbone_alone())
        for turn in range(options.turns):
            ours.append(extraction(turn))
            bare.append(backbone_alone())
            print(f"turn {turn}: bare {bare[-1]:.3f}, extraction {ours[-1]:.3f} images/s", file=sys.stderr, flush=True)
    around = [2 / (1 / a + 1 / b) for a, b in itertools.pairwise(bare)]
    ratios = [mine / alone for mine, alone in zip(ours, around, strict=True)]
    rate = statistics.median(ours)
    return {
        "bare_images_per_second": round(statistics.median(bare), 3),
        "extraction_images_per_second": round(rate, 3),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_lowest_turn": round(min(ratios), 3),
        "coco_2014_hours": round(COCO_IMAGES / rate / 3600, 1),
        "dtype": options.dtype,
        "batch": options.batch,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }


def tiny_encoders() -> Encoders:
    """Encoders that cost nothing but return features of the size of a ViT-B, to measure memory."""

    def vision(pixels: torch.Tensor) -> SimpleNamespace:
        mean = pixels.mean((2, 3))[:, :1, None, None]
        patches = mean.expand(-1, 4, 4, 768)
        return SimpleNamespace(patches=patches, attention=mean.expand(-1, 12, 4, 4), cls=patches[:, 0, 0])

    return Encoders(vision, lambda lines: torch.ones(len(lines), 512), 12, 768, 512, 32, 8, {"name": "none"})


def memory_child(source_path: Path, out: Path, count: int, encoders: str, per_shard: int) -> None:
    """Index a source, extract some of its images, and print the resident memory after each step, in MB."""
    if encoders in ("none", "random"):
        chosen = tiny_encoders() if encoders == "none" else random_encoders(torch.float32)
    else:
        chosen = load_encoders(encoders, device="cpu", dtype="float32")
    if encoders != "none":  # the memory of the running models counts as the start
        chosen.vision(torch.zeros(16, 3, chosen.size, chosen.size))
        chosen.embed(["a caption of some words"] * 32)
    start = resident("VmRSS")
    source = open_source(source_path, images=source_path.parent)
    indexed = resident("VmRSS")
    if count:
        settings = ExtractOptions(out=out, records_per_shard=per_shard)
        extract(settings, source=FirstRecords(source, count), encoders=chosen)
    else:
        for _ in source.records(lambda number: number % 997 == 0):
            pass
    print(json.dumps({"records": len(source), "extracted": count, "start": start, "index": indexed - start,
                      "peak": resident("VmHWM")}))  # fmt: skip


def resident(what: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process, in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1e3


def small_jpeg() -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def some_captions(n: int) -> list[str]:
    return [f"a red ball lies on the green grass, caption {i} of image {n}" for i in range(5)]


def write_tar(path: Path, count: int) -> None:
    """A tar of ``count`` small JPEGs with five captions each, as img2dataset writes them."""
    import io
    import tarfile

    image = small_jpeg()
    with tarfile.open(path, "w") as tar:
        for n in range(count):
            for ending, content in (("jpg", image), ("txt", "\n".join(some_captions(n)).encode())):
                info = tarfile.TarInfo(f"{n:09d}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def write_jsonl(folder: Path, count: int) -> None:
    """metadata.jsonl alone, to measure the index."""
    folder.mkdir()
    with open(folder / "metadata.jsonl", "w") as file:
        for n in range(count):
            file.write(json.dumps({"file_name": f"train/{n:012d}.jpg", "captions": some_captions(n)}) + "\n")


def write_coco(path: Path, count: int) -> None:
    """A COCO captions file of ``count`` images with the fields of the original, to measure the index."""
    with open(path, "w") as file:
        file.write('{"info": {}, "images": [')
        for n in range(count):
            entry = {"license": 5, "file_name": f"COCO_train2014_{n:012d}.jpg", "height": 480, "width": 640, "id": n}
            file.write((", " if n else "") + json.dumps(entry))
        file.write('], "annotations": [')
        for n in range(count):
            for i, text in enumerate(some_captions(n)):
                entry = {"image_id": n, "id": 5 * n + i, "caption": text}
                file.write((", " if n or i else "") + json.dumps(entry))
        file.write("]}")


def write_text_files(folder: Path, count: int) -> None:
    """Empty images, each with a .txt, to measure the index."""
    folder.mkdir()
    for n in range(count):
        (folder / f"{n:012d}.jpg").touch()
        (folder / f"{n:012d}.txt").touch()


def memory(options: argparse.Namespace) -> dict:
    """Peak memory at 1/4, 1/2 and all of the images, from a tar; and the size of the index, per layout."""
    rows: list[dict] = []
    layouts: list[dict] = []
    most, records = options.memory, options.index_records
    if most // 4 < 4 * options.records_per_shard:
        sys.exit(f"--memory {most} is less than 16 shards of {options.records_per_shard}, too few to separate growth from "
                 "the shards that a run holds in memory")  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tar(folder / "small.tar", most)
        for count in (most // 4, most // 2, most):
            rows.append(_child(folder / "small.tar", folder / f"store{count}", count, options))
            print(rows[-1], file=sys.stderr, flush=True)
            shutil.rmtree(folder / f"store{count}")
        (folder / "small.tar").unlink()
        for layout, count, write in (
            ("tar", records, write_tar),
            ("jsonl", records, write_jsonl),
            ("coco.json", records, write_coco),
            ("txt", records // 10, write_text_files),
        ):
            if not count:
                continue
            write(folder / layout if layout != "tar" else folder / "x.tar", count)
            path = folder / ("x.tar" if layout == "tar" else layout)
            layouts.append({"layout": layout, **_child(path, folder / "none", 0, options)})
            print(layouts[-1], file=sys.stderr, flush=True)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    growth = (rows[2]["peak"] - rows[0]["peak"]) / (rows[2]["extracted"] - rows[0]["extracted"]) * 1e6
    return {
        "rows": rows,
        "layouts": layouts,
        "encoders": options.encoders,
        "records_per_shard": options.records_per_shard,
        "start_mb": round(rows[0]["start"]),
        "peak_mb": [round(row["peak"]) for row in rows],
        "growth_mb_for_a_million": round(growth),
        "index_mb_for_a_million": {row["layout"]: round(row["index"] / row["records"] * 1e6) for row in layouts},
        "opening_peak_mb_for_a_million": {
            row["layout"]: round((row["peak"] - row["start"]) / row["records"] * 1e6) for row in layouts
        },
    }


def _child(source: Path, out: Path, count: int, options: argparse.Namespace) -> dict:
    call = [sys.executable, __file__, "--child", str(source), str(out), str(count), "--encoders", options.encoders,
            "--records-per-shard", str(options.records_per_shard), "--threads", str(options.threads)]  # fmt: skip
    return json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def show_speed(figures: dict) -> None:
    print(f"bare backbone                {figures['bare_images_per_second']:7.2f} images/s   ({figures['dtype']}, batch "
          f"{figures['batch']}, ViT-B/14 at 448)")  # fmt: skip
    print(f"extraction                   {figures['extraction_images_per_second']:7.2f} images/s   "
          f"{100 * figures['ratio']:.1f} % of the bare backbone (lowest turn {100 * figures['ratio_lowest_turn']:.1f} %, "
          f"goal {100 * GOAL:.0f} %)")  # fmt: skip
    print(f"COCO 2014: {COCO_IMAGES:,} images, 5 captions each: {figures['coco_2014_hours']} hours at this rate")
    print(figures["machine"])


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32, help="images per turn")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--memory", type=int, metavar="IMAGES", help="measure memory instead of speed")
    parser.add_argument("--index-records", type=int, default=1_000_000, help="with --memory: records of each layout")
    parser.add_argument("--encoders", default="none", help="with --memory: none, random (ViT-B), or a model")
    parser.add_argument("--records-per-shard", type=int, default=2048, help="with --memory")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    return parser


def main() -> None:
    options = make_parser().parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        source, out, count = options.child
        memory_child(Path(source), Path(out), int(count), options.encoders, options.records_per_shard)
        return
    figures = memory(options) if options.memory else speed(options)
    if options.json:
        print(json.dumps(figures))
    elif options.memory:
        counts = ", ".join(f"{row['extracted']:,}" for row in figures["rows"])
        print(f"peak {', '.join(map(str, figures['peak_mb']))} MB resident at {counts} images ({figures['start_mb']} MB "
              f"before a source is opened); growth {figures['growth_mb_for_a_million']} MB per million images")  # fmt: skip
        for layout, index in figures["index_mb_for_a_million"].items():
            print(f"index of a million records, {layout}: {index} MB, at most "
                  f"{figures['opening_peak_mb_for_a_million'][layout]} MB while it is made")  # fmt: skip
    else:
        show_speed(figures)


if __name__ == "__main__":
    main()
