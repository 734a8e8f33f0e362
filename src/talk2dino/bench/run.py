"""The measurements of ``talk2dino bench``: each section appends figures, most of them ratios within the run."""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from talk2dino.bench.measure import matmul_rate, peak_memory, ratio, seconds, take_turns, vision_flops, wait_for
from talk2dino.bench.memory import in_own_process, load, segment_folder
from talk2dino.bench.parts import RANDOM_MODELS, class_names, photograph, write_photographs
from talk2dino.bench.plain_pamr import pamr
from talk2dino.device import choose_device, choose_dtype
from talk2dino.errors import InputError
from talk2dino.models.preprocess import normalise, resize_image, to_pixels
from talk2dino.stages.background import clean_background
from talk2dino.stages.refine import refine
from talk2dino.stages.similarity import cosine_similarity
from talk2dino.stages.upsample import Resize, label_pixels, upsample

SECTIONS = ("machine", "pipeline", "stages", "refinement", "text", "folder", "memory")

#: Seven templates and twenty classes: the 140 prompts that the published pipeline is timed with.
TEMPLATES = ("itap of a {}.", "a bad photo of a {}.", "a origami {}.", "a photo of the large {}.", "a {} in a video game.",
             "art of the {}.", "a photo of the small {}.")  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        section: one of :data:`SECTIONS`. what: of what, in words.
        value: in ``unit``; "x" is a ratio of two times, "share" a ratio of two rates.
        goal: the project's own bar, as ("<=" or ">=", number), for the models and sizes that it is set for.
        settings: dtype, batch size and engine, where they matter.
        detail: what else was seen, in words.
    """

    section: str
    what: str
    value: float
    unit: str
    goal: tuple[str, float] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    detail: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.goal is None:
            return None
        sign, bar = self.goal
        return self.value <= bar if sign == "<=" else self.value >= bar


@dataclass(frozen=True)
class BenchOptions:
    """What to measure.

    Attributes:
        model: one of RANDOM_MODELS (published sizes, random weights), or what ``Segmenter.from_pretrained`` takes.
        device, dtypes, engines: combinations for the pipeline; "auto" as for the Segmenter.
        batches: pictures a forward pass. classes: prompts.
        turns: repetitions; medians are reported. sections: of :data:`SECTIONS`.
        folder_seconds: about how long the folder run takes.
        plain_classes: class counts at which refinement meets the plain formulation (slow).
        memory_pictures: length of the folder whose memory is watched.
    """

    model: str = "random-vitb"
    device: str = "auto"
    dtypes: Sequence[str] = ("auto",)
    engines: Sequence[str] = ("torch",)
    batches: Sequence[int] = (1, 4)
    classes: int = 20
    turns: int = 5
    sections: Sequence[str] = SECTIONS
    folder_seconds: float = 10.0
    plain_classes: Sequence[int] = (20, 150)
    memory_pictures: int = 1000

    def __post_init__(self) -> None:
        wrong = [name for name in self.sections if name not in SECTIONS]
        if wrong:
            raise InputError(f"unknown section {wrong[0]!r}; accepted: {', '.join(SECTIONS)}")
        if self.turns < 1 or self.classes < 1 or not self.batches or min(self.batches) < 1:
            raise InputError("turns, classes and batch sizes must be at least 1")


def run_bench(options: BenchOptions, *, tell: Callable[[Figure], None] = lambda figure: None) -> list[Figure]:
    """Measure; ``tell`` hears of every figure as soon as there is one.

    Raises:
        InputError: an unknown section, device, dtype or engine.
    """
    device = choose_device(options.device)
    for dtype in options.dtypes:
        choose_dtype(dtype, device)
    figures = []
    for section in SECTIONS:
        if section in options.sections:
            for figure in MEASURES[section](options, device):
                figures.append(figure)
                tell(figure)
    return figures


def machine(options: BenchOptions, device: torch.device) -> Iterator[Figure]:
    """How fast matrices are multiplied."""
    for dtype in dict.fromkeys(choose_dtype(name, device) for name in ("float32", *options.dtypes)):
        yield Figure(
            "machine", "matrix product", matmul_rate(dtype, device) / 1e9, "GFLOP/s", None, {"dtype": _name(dtype)}
        )


def pipeline(options: BenchOptions, device: torch.device) -> Iterator[Figure]:
    """The vision model against the bound, and the whole against the vision model."""
    names = class_names(options.classes)
    bars = options.model == "random-vitb" and options.classes == 20
    reference: list[np.ndarray] = []
    side = _model_size(options)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{n}.jpg" for n in range(max(options.batches))]
        for n, path in enumerate(paths):
            Image.fromarray(photograph(side, side, seed=n)).save(path, quality=90)
        for dtype_name, engine in [(d, e) for e in options.engines for d in options.dtypes]:
            dtype = choose_dtype(dtype_name, device)
            bound = matmul_rate(dtype, device)
            segmenter = load(options.model, device=options.device, dtype=dtype, engine=engine)
            run_vision, flops = segmenter.run_vision, vision_flops(segmenter.vision, side, side)
            for batch in options.batches:
                settings = {"dtype": _name(dtype), "batch": batch, "engine": engine}
                pixels = torch.stack([to_pixels(photograph(side, side, seed=n)) for n in range(batch)])
                seen = normalise(pixels.to(device))

                def backbone(run_vision: Any = run_vision, seen: torch.Tensor = seen) -> None:
                    with torch.inference_mode():
                        run_vision(seen)

                def whole(s: Any = segmenter, batch: int = batch, sharpen: bool = False) -> Any:
                    return s.segment_batch(paths[:batch], names, refine=sharpen, batch_size=batch)

                works: dict[str, Callable[[], Any]] = {
                    "backbone": backbone,
                    "whole": whole,
                    "refined": functools.partial(whole, sharpen=True),
                }
                times = take_turns(works, options.turns, device)
                alone = statistics.median(times["backbone"]) / batch
                yield Figure("pipeline", "vision model", 1 / alone, "pictures/s", None, settings)
                yield Figure(
                    "pipeline", "vision model / bound of the matrix product", alone * bound / flops, "x",
                    ("<=", 2.0) if bars and dtype == torch.bfloat16 else None, settings,
                    f"{alone:.3f} s a picture, {flops / 1e9:.0f} GFLOP at {bound / 1e9:.0f} GFLOP/s",
                )  # fmt: skip
                spent = statistics.median(times["whole"]) / batch
                yield Figure(
                    "pipeline", "JPEG to labels / vision model", ratio(times, "whole", "backbone"), "x",
                    ("<=", 1.15) if bars else None, settings, f"{spent:.3f} s a picture",
                )  # fmt: skip
                spent = statistics.median(times["refined"]) / batch
                yield Figure(
                    "pipeline", "the same with refinement / vision model", ratio(times, "refined", "backbone"), "x",
                    ("<=", 1.8) if bars else None, settings, f"{spent:.3f} s a picture",
                )  # fmt: skip
            labels = [
                result.labels for result in segmenter.segment_batch(paths, names, batch_size=max(options.batches))
            ]
            if engine == "torch" and dtype == torch.float32:
                reference = labels
            else:
                if not reference:
                    plain = load(options.model, device=options.device, dtype="float32")
                    reference = [result.labels for result in plain.segment_batch(paths, names)]
                same = float(np.mean([(a == b).mean() for a, b in zip(labels, reference, strict=True)]))
                trained = options.model not in RANDOM_MODELS
                yield Figure(
                    "pipeline", "pixels labelled as in float32", same, "share", (">=", 0.98) if trained else None,
                    {"dtype": _name(dtype), "engine": engine},
                    "" if trained else "random weights: the classes are all but tied, trained ones agree better",
                )  # fmt: skip


def stages(options: BenchOptions, device: torch.device) -> Iterator[Figure]:
    """Each stage by itself, for one picture at the model's size."""
    segmenter = load(options.model, device=options.device, dtype=options.dtypes[0], engine=options.engines[0])
    side, names = segmenter.config.size, class_names(options.classes)
    array = photograph(side, side)
    image, text = segmenter.encode_image(array), segmenter.encode_text(names)
    with torch.inference_mode():
        scores = cosine_similarity(image.patches, text.embeddings)
        seen = (image.grid[0] * segmenter.vision.patch_size, image.grid[1] * segmenter.vision.patch_size)
        large = upsample(scores, seen)
    assert image.pixels is not None
    pixels, inputs = image.pixels, normalise(image.pixels)
    larger = photograph(480 * side // 448, 640 * side // 448)
    seen_larger = segmenter.seen_size(*larger.shape[:2])
    with tempfile.TemporaryDirectory() as folder:
        result = segmenter.segment(array, names)
        works: dict[str, Callable[[], Any]] = {
            "resize a picture to what the model sees": lambda: to_pixels(resize_image(larger, seen_larger)),
            "vision model": lambda: segmenter.run_vision(inputs),
            "prompts (remembered) and psi": lambda: segmenter.encode_text(names),
            "similarity": lambda: cosine_similarity(image.patches, text.embeddings),
            "background cleaning": lambda: clean_background(
                scores, image.patches, image.attention, text.embeddings, variant=segmenter.config.variant
            ),
            "refinement": lambda: refine(large, pixels),
            "upsampling and argmax": lambda: label_pixels(scores[0], [Resize(*seen, True)], None, 0),
            "palette PNG": lambda: result.save(Path(folder) / "labels.png"),
        }
        with torch.inference_mode():
            times = take_turns(works, max(5, options.turns), device)
    for name, values in times.items():
        yield Figure(
            "stages", name, 1000 * statistics.median(values), "ms", None,
            {"dtype": _name(segmenter.dtype), "batch": 1, "engine": options.engines[0]},
        )  # fmt: skip


def refinement(options: BenchOptions, device: torch.device) -> Iterator[Figure]:
    """PAMR against its plain formulation, which runs once: it takes long."""
    size = 448
    for classes in options.plain_classes:
        generator = torch.Generator().manual_seed(classes)
        masks = torch.rand(1, classes, size, size, generator=generator).to(device)
        pixels = (torch.rand(1, 3, size, size, generator=generator) * 255).to(device)
        with torch.inference_mode():
            sharpen = functools.partial(refine, masks, pixels)
            fast = statistics.median(take_turns({"fast": sharpen}, options.turns, device)["fast"])
            result = sharpen()
            pamr(masks[:, :1], pixels)  # a first call is never measured
            started = time.perf_counter()
            expected = pamr(masks, pixels)
            wait_for(device)
            plain = time.perf_counter() - started
        difference = (result - expected).abs().max().item()
        yield Figure(
            "refinement", f"plain formulation / ours, {classes} classes", plain / fast, "x",
            (">=", 60.0) if device.type == "cpu" else None, {"dtype": "float32"},
            f"{plain:.2f} s and {fast:.3f} s, largest difference {difference:.1e}",
        )  # fmt: skip


def text(options: BenchOptions, device: torch.device) -> Iterator[Figure]:
    """140 prompts: the first time, and when they are remembered."""
    segmenter = load(options.model, device=options.device)
    names = class_names(20)
    segmenter.encode_text(["warm up"])
    first = seconds(lambda: segmenter.encode_text(names, templates=TEMPLATES), device)
    again = take_turns({"again": lambda: segmenter.encode_text(names, templates=TEMPLATES)}, 5, device)["again"]
    yield Figure("text", "140 prompts, first time", 1000 * first, "ms")
    yield Figure("text", "140 prompts, remembered", 1000 * statistics.median(again), "ms")


def folder(options: BenchOptions, device: torch.device) -> Iterator[Figure]:
    """A folder of 640 x 480 JPEGs, from reading to writing, against the bare vision model at the same size."""
    batch = max(options.batches)
    segmenter = load(options.model, device=options.device, dtype=options.dtypes[0], engine=options.engines[0])
    seen = segmenter.seen_size(480, 640)
    pixels = normalise(torch.stack([to_pixels(resize_image(photograph(480, 640), seen))] * batch).to(device))

    def bare(count: int) -> None:
        with torch.inference_mode():
            for _ in range(-(-count // batch)):
                segmenter.run_vision(pixels)

    bare(batch)
    rate = batch / seconds(functools.partial(bare, batch), device)
    count = min(1000, max(4 * batch, round(options.folder_seconds * rate)))
    count = -(-count // batch) * batch
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "pictures").mkdir()
        paths = write_photographs(Path(name) / "pictures", count)
        segment_folder(segmenter, paths[:batch], Path(name) / "warm", ["palette", "overlay"], batch)
        for kinds, goal in ((["palette"], (">=", 0.85)), (["palette", "overlay"], None)):
            shares, rates = [], []
            count = len(paths) if goal else max(batch, len(paths) // 4 // batch * batch)  # overlays take long
            for turn in range(3):
                before = seconds(functools.partial(bare, count), device)
                spent = segment_folder(segmenter, paths[:count], Path(name) / f"{turn}{len(kinds)}", kinds, batch)
                after = seconds(functools.partial(bare, count), device)
                shares.append((before + after) / 2 / spent)
                rates.append(count / spent)
            what = "labels written" if len(kinds) == 1 else "labels and overlays written"
            known = options.model in ("micro", "random-vitb")
            yield Figure(
                "folder", f"pictures a second / bare vision model's, {what}", statistics.median(shares), "share",
                goal if known else None, {"dtype": _name(segmenter.dtype), "batch": batch, "engine": options.engines[0]},
                f"{statistics.median(rates):.2f} pictures/s, {count} pictures, turns {', '.join(f'{s:.2f}' for s in shares)}",
            )  # fmt: skip


def memory(options: BenchOptions, device: torch.device) -> Iterator[Figure]:
    """Resident memory of this run, of one large picture and of a long folder."""
    yield Figure("memory", "this process so far", peak_memory() / 1e9, "GB")
    large = in_own_process("picture", options.model, 4000, 6000, 150)
    yield Figure(
        "memory", "4000 x 6000 picture, 150 classes, slide mode, labels", large["peak"] / 1e9, "GB", ("<=", 3.0), {},
        f"{large['loaded'] / 1e9:.2f} GB of it with the model loaded; {large['seconds']:.1f} s",
    )  # fmt: skip
    long = in_own_process("folder", "micro", options.memory_pictures)
    quarter, everything = long["pictures"]
    yield Figure(
        "memory", f"folder with micro: peak after {everything} pictures / after {quarter}",
        long["peaks"][1] / max(1, long["peaks"][0]), "x", ("<=", 1.05), {}, f"{long['peaks'][1] / 1e9:.2f} GB",
    )  # fmt: skip


MEASURES: dict[str, Callable[[BenchOptions, torch.device], Iterator[Figure]]] = {
    "machine": machine, "pipeline": pipeline, "stages": stages, "refinement": refinement, "text": text, "folder": folder,
    "memory": memory,
}  # fmt: skip


def _model_size(options: BenchOptions) -> int:
    """The side at which the model sees a square picture."""
    if options.model in RANDOM_MODELS:
        return 448
    segmenter = load(options.model, device="cpu", dtype="float32")
    return segmenter.seen_size(448, 448)[0]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
