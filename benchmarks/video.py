"""Videos: quality on drawn films, the gain of key frames, memory, and the picture of docs/video.md.

    python benchmarks/video.py quality   # mIoU and flicker, with micro
    python benchmarks/video.py speed     # every frame against every fourth one, with a ViT-B of random weights
    python benchmarks/video.py memory    # peak of a 10-minute video over that of a 1-minute one
    python benchmarks/video.py film street.mp4       # draw a film with sound, to try things with
    python benchmarks/video.py picture docs/video.png

Each prints a Markdown table; --quick takes fewer films, or shorter ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from talk2dino import Segmenter
from talk2dino.evaluation.flicker import Flicker, flicker_along_motion, flicker_in_place
from talk2dino.folder import FolderOptions, run_folder
from talk2dino.io.legend import draw_grid
from talk2dino.io.markdown import markdown_table
from talk2dino.speed.clocks import peak_memory, restart_peak
from talk2dino.speed.workload import load
from talk2dino.video.overlay import VideoOverlay
from talk2dino.words.prompts import read_prompts
from talk2dino.world import CLASS_NAMES
from talk2dino.world.films import Film, exact_motion, render_film, sample_film

#: Films of this and the following seeds are measured; no scene of them was used in training.
FIRST_SEED = 20_000_000
WAYS: dict[str, dict[str, Any]] = {
    "frame by frame": {"steady": False},
    "steady": {},
    "steady, every 4th frame encoded": {"keyframe_every": 4},
    "steady, every 8th frame encoded": {"keyframe_every": 8},
}


# --- quality ---------------------------------------------------------------------------------------------------------------


def quality(films: int, frames: int, height: int) -> None:
    """mIoU over all pixels of all films, and flicker between their frames."""
    segmenter = Segmenter.from_pretrained("micro", dtype="float32", device="cpu")
    words = segmenter.encode_text(list(CLASS_NAMES))
    counts = {way: np.zeros((len(CLASS_NAMES),) * 2, dtype=np.int64) for way in WAYS}
    place, along = ({way: Flicker() for way in WAYS} for _ in range(2))
    for seed in range(FIRST_SEED, FIRST_SEED + films):
        film = sample_film(seed, frames=frames)
        drawn = list(render_film(film, height))
        motion = [exact_motion(film, number, one.regions) for number, one in enumerate(drawn)]
        for way, options in WAYS.items():
            found = [
                result.labels for _, result in segmenter.segment_video([one.image for one in drawn], words, **options)
            ]
            for number, (labels, truth) in enumerate(zip(found, drawn, strict=True)):
                pairs = truth.labels.astype(np.int64) * len(CLASS_NAMES) + labels
                counts[way] += np.bincount(pairs.ravel(), minlength=counts[way].size).reshape(counts[way].shape)
                if number and not np.isnan(motion[number]).any():  # a cut changes everything
                    before, earlier = found[number - 1], drawn[number - 1]
                    place[way] += flicker_in_place(before, labels, earlier.labels, truth.labels)
                    along[way] += flicker_along_motion(before, labels, earlier.regions, truth.regions, motion[number])
    first = next(iter(WAYS))
    rows = [
        (
            way, f"{100 * mean_iou(counts[way]):.2f}", f"{100 * along[way].share:.3f} %",
            f"{along[way].share / along[first].share:.2f}", f"{100 * place[way].share:.3f} %",
            f"{place[way].share / place[first].share:.2f}",
        )
        for way in WAYS
    ]  # fmt: skip
    print(f"{films} films of {frames} frames, {height} x {round(1.5 * height)}, micro\n")
    print(
        markdown_table(
            ("", "mIoU", "flicker along the motion", "of frame by frame", "flicker in place", "of frame by frame"), rows
        )
    )


def mean_iou(counts: np.ndarray) -> float:
    """Mean over the classes that occur in the truth."""
    hits = np.diag(counts)
    present = counts.sum(1) > 0
    return float((hits / np.maximum(1, counts.sum(0) + counts.sum(1) - hits))[present].mean())


# --- speed -----------------------------------------------------------------------------------------------------------------


def speed(model: str, frames: int, device: str) -> None:
    """Seconds per frame of ``segment_video`` on frames of 480 x 720 in memory, the ways in turn."""
    segmenter = load(model, device=device)
    words = segmenter.encode_text(list(CLASS_NAMES))
    images = [one.image for one in render_film(sample_film(FIRST_SEED, frames=frames, shots=1), 480, supersample=1)]
    list(segmenter.segment_video(images[:4], words, keyframe_every=4))  # compiles and warms up
    rows, base = [], 0.0
    for way, options in list(WAYS.items())[1:]:
        started = time.perf_counter()
        encoded = sum(result.info["encoded"] for _, result in segmenter.segment_video(images, words, **options))
        seconds = (time.perf_counter() - started) / frames
        base = base or seconds
        rows.append((way, str(encoded), f"{seconds:.3f}", f"{base / seconds:.2f}"))
    dtype = str(segmenter.dtype).removeprefix("torch.")
    print(f"{frames} frames of 480 x 720, {model}, {dtype} on {segmenter.device}\n")
    print(markdown_table(("", "encoded", "seconds per frame", "times as fast"), rows))


# --- memory ----------------------------------------------------------------------------------------------------------------


def memory(minutes: list[float]) -> None:
    """Peak memory of runs over videos of so many minutes, at 30 frames per second, each in a new process."""
    rows, peaks = [], []
    with tempfile.TemporaryDirectory() as folder:
        for length in minutes:
            path = Path(folder) / f"{length:g}.mp4"
            write_noise(path, round(length * 1800))
            command = [sys.executable, __file__, "memory-of", str(path)]
            done = json.loads(
                subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            )
            peaks.append(done["peak"])
            rows.append((f"{length:g} min", str(done["frames"]), f"{done['peak'] / 1e6:.0f} MB", f"{done['seconds']:.0f} s",
                         f"{done['peak'] / peaks[0]:.3f}"))  # fmt: skip
            print(f"{length:g} min: {rows[-1]}", file=sys.stderr, flush=True)
    print(markdown_table(("video", "frames", "peak", "time", "peak, of the first"), rows))


def memory_of(path: Path) -> None:
    """The run of one video, with a small input size so that the time goes into frames, not into the model."""
    segmenter = Segmenter.from_pretrained("micro", dtype="float32", device="cpu", size=32)
    options: dict[str, Any] = {
        "prompts": read_prompts(["sky", "grass", "ball"]), "save": ("overlay", "palette", "json"),
        "overlay": {"legend": False}, "video": {"keyframe_every": 10},
    }  # fmt: skip
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        restart_peak()
        run_folder(FolderOptions(images=(str(path),), out=Path(out), **options), segmenter=segmenter)
    with av.open(str(path)) as container:
        frames = container.streams.video[0].frames
    print(json.dumps({"frames": frames, "peak": peak_memory(), "seconds": time.perf_counter() - started}))


def write_noise(path: Path, frames: int) -> None:
    """A video of 48 x 64 pixels in which a square moves over noise."""
    ground = np.random.default_rng(0).integers(0, 200, (48, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number in range(frames):
            image = ground.copy()
            image[16:32, number % 48 : number % 48 + 16] = (250, 40, 30)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode(None))


# --- a film to try things with, and the picture ----------------------------------------------------------------------------


def write_film(path: Path, film: Film, height: int = 240) -> None:
    """A drawn film as H.264, with a tone that rises at the cut."""
    with av.open(str(path), "w") as out:
        video: Any = out.add_stream("libx264", rate=round(film.rate), options={"crf": "18"})
        video.height, video.width, video.pix_fmt = height, round(1.5 * height) // 2 * 2, "yuv420p"
        sound = out.add_stream("aac", rate=16000, layout="mono")
        for one in render_film(film, height):
            image = np.ascontiguousarray(one.image[:, : video.width])
            out.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(video.encode(None))
        samples = round(len(film) / film.rate * 16000)
        moments = np.arange(samples) / 16000
        pitch = np.where(moments < film.shots[0].frames / film.rate, 220, 330)
        wave = (np.sin(2 * np.pi * pitch * moments) / 5).astype(np.float32)
        for first in range(0, samples, 1024):
            frame = av.AudioFrame.from_ndarray(wave[None, first : first + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, first
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))


def picture(path: Path) -> None:
    """Four frames of a film before and behind a cut: frame by frame, steady, and with every 4th frame encoded."""
    segmenter = Segmenter.from_pretrained("micro", dtype="float32", device="cpu")
    film = sample_film(FIRST_SEED + 5, frames=48)
    drawn = list(render_film(film, 192))
    words = segmenter.encode_text(list(CLASS_NAMES))
    tiles: list[tuple[str, Image.Image]] = []
    chosen = (10, 22, 34, 46)
    overlay = VideoOverlay(legend=False)
    for way in list(WAYS)[:3]:
        results = [result for _, result in segmenter.segment_video([one.image for one in drawn], words, **WAYS[way])]
        for number in chosen:
            title = f"{way}, {number / film.rate:.2f} s" if number == chosen[0] else f"{number / film.rate:.2f} s"
            tiles.append((title, Image.fromarray(overlay(drawn[number].image, results[number]))))
    draw_grid(tiles, len(chosen)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quality", "speed", "memory", "film", "picture", "memory-of"))
    parser.add_argument("file", type=Path, nargs="?", help="to write (film, picture)")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--films", type=int, help="quality [6; quick: 2]")
    parser.add_argument("--frames", type=int, help="quality [48], speed [32; quick: 8]")
    parser.add_argument("--model", default="random-vitb", help="speed [random-vitb]")
    parser.add_argument("--device", default="auto", help="speed [auto]")
    parser.add_argument("--seed", type=int, default=FIRST_SEED + 5, help="film")
    options = parser.parse_args()
    quick = options.quick
    if options.what == "quality":
        quality(options.films or (2 if quick else 6), options.frames or 48, 192)
    elif options.what == "speed":
        speed(options.model, options.frames or (8 if quick else 32), options.device)
    elif options.what == "memory":
        memory([0.1, 0.5] if quick else [1, 10])
    elif options.file is None:
        parser.error(f"{options.what} needs a file")
    elif options.what == "memory-of":
        memory_of(options.file)
    elif options.what == "film":
        write_film(options.file, sample_film(options.seed, frames=96))
    else:
        picture(options.file)


if __name__ == "__main__":
    main()
