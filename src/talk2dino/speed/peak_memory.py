"""Peak memory of a large image and of a long folder, each in a new process, so that nothing else is in the figure.

The new process runs this file; its arguments and its answer are JSON.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from talk2dino.errors import Talk2DinoError
from talk2dino.speed.clocks import peak_memory, restart_peak
from talk2dino.speed.figures import Figure
from talk2dino.speed.folder_runs import segment_folder
from talk2dino.speed.plan import Pair, Plan, dtype_name
from talk2dino.speed.workload import class_names, load, photograph, write_photographs

MOST_GROWTH = 1.05


def memory(plan: Plan) -> Iterator[Figure]:
    """Resident memory of this run, of one large image and of a long folder."""
    yield Figure("memory", "this process so far", peak_memory() / 1e9, "GB")
    pair = plan.pairs[0]
    large = in_new_process("image", plan.options.model, 4000, 6000, 150, options=child_options(plan, pair))
    yield Figure(
        "memory", "4000 x 6000 image, 150 classes, slide mode, labels", large["peak"] / 1e9, "GB", ("<=", 3.0),
        pair.settings, f"{large['loaded'] / 1e9:.2f} GB of it with the model loaded; {large['seconds']:.1f} s",
    )  # fmt: skip
    long = in_new_process("folder", "micro", plan.options.memory_images, options=child_options(plan, pair))
    few, many = long["images"]
    yield Figure(
        "memory", f"folder with micro: peak of {many} images / of {few}", growth(long["peaks"]), "x",
        ("<=", MOST_GROWTH), pair.settings, f"{long['peaks'][1] / 1e9:.2f} GB",
    )  # fmt: skip


def child_options(plan: Plan, pair: Pair) -> dict[str, str]:
    return {"device": str(plan.device), "dtype": dtype_name(pair.dtype), "engine": pair.engine}


def in_new_process(kind: str, model: str, *numbers: int, options: dict[str, str] | None = None) -> dict[str, Any]:
    """What :func:`main` prints for these arguments in a new process.

    Raises:
        Talk2DinoError: the process crashed, was killed, or printed something else.
    """
    command = [sys.executable, "-m", "talk2dino.speed.peak_memory", json.dumps([kind, model, numbers, options or {}])]
    done = subprocess.run(command, capture_output=True, text=True)
    with contextlib.suppress(ValueError, IndexError):
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
    if done.returncode < 0:
        why = f"it was stopped by {signal.Signals(-done.returncode).name}; the usual cause is too little memory"
    else:
        why = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it printed no reason")
    raise Talk2DinoError(f"the process that measures the {kind} failed: {why}")


def large_image(model: str, height: int, width: int, classes: int, **options: str) -> dict[str, Any]:
    """Labels of one JPEG in slide mode."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "large.jpg"
        # Drawn small and enlarged, so that drawing is not what takes the memory.
        small = Image.fromarray(photograph(max(1, height // 8), max(1, width // 8)))
        small.resize((width, height)).save(path, quality=90)
        before = peak_memory()
        segmenter = load(model, **options)
        loaded = peak_memory()
        started = time.perf_counter()
        result = segmenter.segment(path, class_names(classes), mode="slide")
        spent = time.perf_counter() - started
    assert result.labels.shape == (height, width)
    return {"before": before, "loaded": loaded, "peak": peak_memory(), "seconds": spent}


def long_folder(model: str, count: int, **options: str) -> dict[str, Any]:
    """Peaks of a quarter of the images and of all of them."""
    segmenter = load(model, **options)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_photographs(folder / "images", count)
        counts = (max(1, count // 4), count)

        def run(some: int) -> None:
            segment_folder(segmenter, paths[:some], folder / f"out{some}", ("palette",), 4)

        run(min(count, 8))  # what is allocated once does not count as growth
        return {"images": counts, "peaks": peaks_of(run, counts)}


def peaks_of(run: Callable[[int], object], counts: Sequence[int]) -> list[int]:
    """Peak resident bytes during each run of so many images; what one run leaves behind counts in the next."""
    peaks = []
    for count in counts:
        restart_peak()
        run(count)
        peaks.append(peak_memory())
    return peaks


def growth(peaks: Sequence[int]) -> float:
    """The last peak over the first."""
    return peaks[-1] / max(1, peaks[0])


def main(arguments: str) -> None:
    """Print what was measured, or exit with the reason why it failed."""
    kind, model, numbers, options = json.loads(arguments)
    try:
        print(json.dumps((large_image if kind == "image" else long_folder)(model, *numbers, **options)))
    except Talk2DinoError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1])
