"""Peak memory of a large picture and of a long folder, each in a process of its own (a peak cannot be taken back).

    python -m talk2dino.bench.memory picture random-vitb 4000 6000 150
    python -m talk2dino.bench.memory folder micro 1000

Prints one line of JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from talk2dino.bench.measure import peak_memory
from talk2dino.bench.parts import RANDOM_MODELS, class_names, photograph, random_parts, write_photographs


def in_own_process(*arguments: Any) -> dict[str, Any]:
    """What :func:`main` prints for these arguments, from a fresh process."""
    command = [sys.executable, "-m", "talk2dino.bench.memory", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def load(model: str, **options: Any) -> Any:
    """A Segmenter of a random or a real model."""
    from talk2dino.segmenter import Segmenter

    return (
        Segmenter(random_parts(model), **options)
        if model in RANDOM_MODELS
        else Segmenter.from_pretrained(model, **options)
    )


def large_picture(model: str, height: int, width: int, classes: int) -> dict[str, Any]:
    """Labels of one JPEG in slide mode."""
    import numpy as np
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.jpg"
        # Drawn small and enlarged by the JPEG itself, so that drawing is not what takes the memory.
        small = Image.fromarray(photograph(max(1, height // 8), max(1, width // 8)))
        small.resize((width, height)).save(path, quality=90)
        before = peak_memory()
        segmenter = load(model)
        loaded = peak_memory()
        started = time.perf_counter()
        result = segmenter.segment(path, class_names(classes), mode="slide")
        spent = time.perf_counter() - started
    assert result.labels.shape == (height, width)
    return {
        "before": before, "loaded": loaded, "peak": peak_memory(), "seconds": spent,
        "classes_found": len(np.unique(result.labels)), "label_dtype": str(result.labels.dtype),
    }  # fmt: skip


def long_folder(model: str, count: int) -> dict[str, Any]:
    """Peaks after a quarter of the pictures and after as many again as there are."""
    segmenter = load(model)
    peaks = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pictures").mkdir()
        paths = write_photographs(folder / "pictures", count)
        for share in (count // 4, count):
            segment_folder(segmenter, paths[:share], folder / f"out{share}", ["palette"], 4)
            peaks[share] = peak_memory()
    return {"pictures": list(peaks), "peaks": list(peaks.values())}


def segment_folder(
    segmenter: Any, paths: list[Path], out: Path, kinds: list[str], batch_size: int, classes: int = 20
) -> float:
    """What ``talk2dino segment`` does with pictures once the model is loaded; seconds."""
    from talk2dino.cli.run_segment import SegmentRun

    settings = {
        "model": segmenter.name, "mapping": None, "background": None, "thresholds": {}, "clean": None, "refine": False,
        "mode": "whole", "dtype": "auto", "device": "auto", "engine": segmenter.engine, "method": "talk2dino",
        "method_options": {},
    }  # fmt: skip
    run = SegmentRun(settings, out, kinds, batch_size, False, True, False, segmenter=segmenter)
    started = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()) as messages:
        code = run([str(path) for path in paths], False, ",".join(class_names(classes)), None, None)
    if code != 0:
        raise RuntimeError(f"the folder run failed: {messages.getvalue()[-500:]}")
    return time.perf_counter() - started


def main(arguments: list[str]) -> None:
    kind, model, *numbers = arguments
    work: dict[str, Callable[..., dict[str, Any]]] = {"picture": large_picture, "folder": long_folder}
    print(json.dumps(work[kind](model, *map(int, numbers))))


if __name__ == "__main__":
    main(sys.argv[1:])
