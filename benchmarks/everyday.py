"""What someone notices at once: the time to the first mask, and the same work beside a busy process.

    python benchmarks/everyday.py             # half a minute on two cores; Linux (taskset) for the second figure

First mask: wall time of ``talk2dino segment`` on one image with micro, caches warm, over that of ``python -c "import torch"``,
pair by pair. Beside a busy process: median seconds per image with micro in one process, with and without an endless loop
pinned to one core.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from talk2dino import threads

IMAGE = Path(__file__).parents[1] / "examples" / "pictures" / "beach.png"
PAIRS, CALLS = 5, 40


def wall(*command: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return time.perf_counter() - started


def first_mask() -> None:
    with tempfile.TemporaryDirectory() as out:
        segment = (
            "-m",
            "talk2dino",
            "segment",
            str(IMAGE),
            "-p",
            "sand, grass",
            "-m",
            "micro",
            "-o",
            out,
            "--overwrite",
        )
        wall(*segment)  # fills the caches
        pairs = [(wall(*segment), wall("-c", "import torch")) for _ in range(PAIRS)]
    ratios = sorted(a / b for a, b in pairs)
    seconds = statistics.median(a for a, _ in pairs)
    print(
        f"first mask: {seconds:.2f} s, {statistics.median(ratios):.2f} x import torch ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def beside_a_busy_process() -> None:
    threads.prepare()  # before torch is loaded
    from talk2dino import Segmenter
    from talk2dino.io.images import read_image

    segmenter, image = Segmenter.from_pretrained("micro"), read_image(IMAGE)
    text = segmenter.encode_text(["sand", "grass", "tree"])

    def median() -> float:
        spent = []
        for _ in range(CALLS):
            started = time.perf_counter()
            segmenter.segment(image, text)
            spent.append(time.perf_counter() - started)
        return statistics.median(spent)

    median()  # compiles and warms up
    alone = median()
    busy = subprocess.Popen(["taskset", "-c", "0", sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.5)
        beside = median()
    finally:
        busy.kill()
    print(
        f"micro: {1000 * alone:.1f} ms alone, {1000 * beside:.1f} beside a busy process, {beside / alone:.2f} x (goal 2.0)"
    )


if __name__ == "__main__":
    first_mask()
    beside_a_busy_process()
