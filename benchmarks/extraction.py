"""Pictures a second of extraction, as a share of the bare backbone's, and its memory, on this machine.

    python benchmarks/extraction.py                       # 640 x 480 JPEGs, ViT-B/14 of random weights at 448
    python benchmarks/extraction.py --memory 20000        # peak memory against the number of pictures

Bare: the vision model alone on one batch in memory, same batch size and dtype. Ours: `extract` from JPEG files on disk
to a finished store, decoding, text model (random CLIP ViT-B/16 text tower, five captions a picture) and writing
included. The two take turns, so that another job on the machine slows both.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
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
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from talk2dino.models.text import TextEncoder
from talk2dino.models.tokenizer import TextTokenizer
from talk2dino.models.vision import VisionModel, build_backbone
from talk2dino.training.captions import CaptionSource, FirstRecords, open_source
from talk2dino.training.extract import Encoders, ExtractOptions, extract

COCO_IMAGES = 82_783
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
    """JPEGs with the file size of photographs (smooth shapes and some noise) and five captions each."""
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
    torch.manual_seed(0)
    backbone = build_backbone(
        "dinov2-registers", hidden_size=768, num_hidden_layers=12, num_attention_heads=12, patch_size=14, image_size=518
    )
    vision = VisionModel(backbone).to(dtype)
    text = CLIPTextModelWithProjection(CLIPTextConfig(projection_dim=512, eos_token_id=49407))
    text = TextEncoder(text, TextTokenizer.clip(), cache_size=0)
    return Encoders(vision, lambda lines: text.embed(lines, truncate=True), 12, 768, 512, 448, {"name": "random"})


def speed(options: argparse.Namespace) -> dict:
    dtype = getattr(torch, options.dtype)
    encoders = random_encoders(dtype)
    pixels = torch.randn(options.batch, 3, 448, 448, dtype=dtype)
    bare, ours = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = photographs(folder, options.pictures)
        settings = ExtractOptions(batch_size=options.batch, workers=options.workers)

        def backbone_alone() -> float:
            with torch.inference_mode():
                started = time.perf_counter()
                for _ in range(options.pictures // options.batch):
                    encoders.vision(pixels)
            return options.pictures / (time.perf_counter() - started)

        def extraction(turn: int) -> float:
            started = time.perf_counter()
            manifest = extract(source, encoders, folder / f"store{turn}", settings)
            assert manifest.images == options.pictures
            return options.pictures / (time.perf_counter() - started)

        with torch.inference_mode():
            encoders.vision(pixels)
        bare.append(backbone_alone())
        for turn in range(options.turns):
            ours.append(extraction(turn))
            bare.append(backbone_alone())
            print(
                f"turn {turn}: bare {bare[-1]:.3f}, extraction {ours[-1]:.3f} pictures/s", file=sys.stderr, flush=True
            )
    around = [2 / (1 / a + 1 / b) for a, b in itertools.pairwise(bare)]
    ratios = [mine / alone for mine, alone in zip(ours, around, strict=True)]
    rate = statistics.median(ours)
    return {
        "bare_pictures_per_second": round(statistics.median(bare), 3),
        "extraction_pictures_per_second": round(rate, 3),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_lowest_turn": round(min(ratios), 3),
        "coco_2014_hours": round(COCO_IMAGES / rate / 3600, 1),
        "dtype": options.dtype,
        "batch": options.batch,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }


def tiny_encoders() -> Encoders:
    """Encoders that cost nothing but give features of a ViT-B's size: for memory alone."""

    def vision(pixels: torch.Tensor) -> SimpleNamespace:
        mean = pixels.mean((2, 3))[:, :1, None, None]
        patches = mean.expand(-1, 4, 4, 768)
        return SimpleNamespace(patches=patches, attention=mean.expand(-1, 12, 4, 4), cls=patches[:, 0, 0])

    return Encoders(vision, lambda lines: torch.ones(len(lines), 512), 12, 768, 512, 32, {"name": "none"})


def memory_child(tar: Path, out: Path, count: int) -> None:
    """Index a tar, extract so many of its pictures, and print resident memory after each step, in MB."""
    resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6  # noqa: E731
    start = resident()
    source = open_source(tar)
    indexed = resident()
    peak = [indexed]
    extract(FirstRecords(source, count), tiny_encoders(), out, ExtractOptions(size=32),
            watch=lambda state: peak.append(resident()))  # fmt: skip
    print(json.dumps({"records": len(source), "extracted": count, "start": start, "index": indexed - start,
                      "peak": max(peak)}))  # fmt: skip


def write_tar(path: Path, count: int) -> None:
    """A tar of ``count`` small JPEGs with five captions each, as img2dataset writes them."""
    import io
    import tarfile

    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).save(buffer, "JPEG")
    with tarfile.open(path, "w") as tar:
        for n in range(count):
            text = "\n".join(f"caption number {i} of picture {n}" for i in range(5)).encode()
            for ending, content in (("jpg", buffer.getvalue()), ("txt", text)):
                info = tarfile.TarInfo(f"{n:09d}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def memory(most: int, index_records: int) -> dict:
    """Peak memory at most / 4, most / 2 and most pictures, and the index of a million."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tar(folder / "small.tar", most)
        for count in (most // 4, most // 2, most):
            rows.append(_child(folder / "small.tar", folder / f"store{count}", count))
            print(rows[-1], file=sys.stderr, flush=True)
        (folder / "small.tar").unlink()
        write_tar(folder / "large.tar", index_records)
        rows.append(_child(folder / "large.tar", folder / "large", most // 4))
        print(rows[-1], file=sys.stderr, flush=True)
    growth = (rows[2]["peak"] - rows[0]["peak"]) / (rows[2]["extracted"] - rows[0]["extracted"]) * 1e6
    index = rows[3]["index"] / rows[3]["records"] * 1e6
    return {
        "rows": rows,
        "peak_mb_measured": round(rows[2]["peak"]),
        "growth_mb_for_a_million": round(growth),
        "index_mb_for_a_million": round(index),
        "start_mb": round(rows[0]["start"]),
        "peak_with_large_index_mb": round(rows[3]["peak"]),
    }


def _child(tar: Path, out: Path, count: int) -> dict:
    call = [sys.executable, __file__, "--child", str(tar), str(out), str(count)]
    return json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=32, help="pictures a turn")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--memory", type=int, metavar="PICTURES", help="measure memory instead of speed")
    parser.add_argument("--index-records", type=int, default=1_000_000, help="with --memory: records of the large tar")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        memory_child(Path(options.child[0]), Path(options.child[1]), int(options.child[2]))
        return
    figures = memory(options.memory, options.index_records) if options.memory else speed(options)
    if options.json:
        print(json.dumps(figures))
    elif options.memory:
        print(f"peak {figures['peak_mb_measured']} MB resident ({figures['start_mb']} MB before anything is opened), growing "
              f"by {figures['growth_mb_for_a_million']} MB a million pictures; index of a million records "
              f"{figures['index_mb_for_a_million']} MB; peak with that index {figures['peak_with_large_index_mb']} MB")  # fmt: skip
    else:
        print(f"bare backbone {figures['bare_pictures_per_second']:.2f} pictures/s, extraction "
              f"{figures['extraction_pictures_per_second']:.2f}: {100 * figures['ratio']:.1f} % (lowest turn "
              f"{100 * figures['ratio_lowest_turn']:.1f} %); COCO 2014 train in {figures['coco_2014_hours']} hours")  # fmt: skip
        print(f"{figures['dtype']}, batch {figures['batch']}, {figures['machine']}")


if __name__ == "__main__":
    main()
