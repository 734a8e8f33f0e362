"""A benchmark and a system in, a confusion matrix out: the published protocol, picture by picture.

    sample --> picture, truth --> method.segment_batch (windows, background, cleaning, refinement) --> labels --> counts

The protocol (short side 448, windows 448 with stride 224, overlaps averaged, the map resized to the label's size, the
background a constant channel in front) is the segmenter's slide mode; here is what surrounds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from talk2dino.errors import InputError, PromptError, Talk2DinoError
from talk2dino.evaluation.datasets import Benchmark, Sample, open_benchmark, world_samples
from talk2dino.evaluation.journal import Journal, PictureRecord, add_up
from talk2dino.evaluation.matching import final_metrics, match_segments
from talk2dino.evaluation.metrics import ConfusionMatrix, Metrics
from talk2dino.evaluation.options import EvaluationOptions
from talk2dino.evaluation.provenance import resolved_config
from talk2dino.evaluation.world import held_out_seeds, world_prompts
from talk2dino.methods.dino_clusters import FIT_PICTURES
from talk2dino.pipeline import check_threshold

#: Called after each batch with (pictures done, pictures in all, metrics so far).
Report = Callable[[int, int, Metrics], None]


@dataclass(frozen=True)
class Outcome:
    """What a run (or a shard of one) found; ``config`` is resolved, ``predict`` labels further pictures in the same way."""

    benchmark: Benchmark
    matrix: ConfusionMatrix
    records: Sequence[PictureRecord]
    config: dict[str, Any]
    predict: Predictor

    @property
    def metrics(self) -> Metrics:
        return final_metrics(self.matrix, self.config)


def open_samples(options: EvaluationOptions, shard: tuple[int, int] = (1, 1)) -> tuple[Benchmark, list[Sample]]:
    """The pictures of a run: of the benchmark the first ``limit``, of these every n-th from the i-th."""
    benchmark, samples = open_benchmark(options.benchmark, options.data)
    if benchmark.name == "world":
        unseen: bool | Literal["all"] = "all" if options.held_out == "all" else options.held_out == "one"
        samples = world_samples(held_out_seeds(options.limit or 300), held_out=unseen)
    number, total = shard
    return benchmark, samples[: options.limit][number - 1 :: total]


def benchmark_prompts(benchmark: Benchmark, options: EvaluationOptions) -> dict[str, list[str]]:
    """Class -> what is asked for; the class name itself unless a synonym file or a prompt variant says otherwise."""
    prompts = {name: [name] for name in benchmark.prompts}
    if benchmark.name == "world":
        prompts = {name: [word] for name, word in zip(prompts, world_prompts(options.prompts), strict=True)}
    if options.synonyms is not None:
        from talk2dino.prompts import read_prompt_file

        given = read_prompt_file(options.synonyms)
        unknown = [name for name in given.names if name not in prompts]
        if unknown:
            raise PromptError(f"{options.synonyms} names classes that {benchmark.name} lacks: {', '.join(unknown[:5])}")
        prompts |= {name: list(words) for name, words in zip(given.names, given.synonyms, strict=True)}
    return prompts


def evaluate(
    method: Any,
    options: EvaluationOptions,
    *,
    out: str | Path | None = None,
    shard: tuple[int, int] = (1, 1),
    batch_size: int = 8,
    report: Report | None = None,
) -> Outcome:
    """Evaluate a system on a benchmark.

    Args:
        method: what :func:`talk2dino.methods.load_method` gives: it is asked through ``segment_batch``.
        options: the run; ``options.method`` and ``options.model`` have been loaded already.
        out: folder that keeps each picture's counts; pictures that it knows are not evaluated again.
        shard: (i, n): every n-th picture from the i-th on.
        batch_size: pictures handed to the method at once (windows go through it in batches of its own).

    Raises:
        DataError: a picture or label is missing, damaged, of another size, or holds values outside the class list.
        InputError: an option that does not go with the benchmark or system, or ``out`` holds another run.
    """
    benchmark, everything = open_samples(options)
    samples = everything[shard[0] - 1 :: shard[1]]
    predict = Predictor(method, benchmark, options)
    config = resolved_config(options, method, everything, threshold=predict.threshold, batch_size=batch_size)
    journal = None if out is None else Journal(out, config, shard, [sample.name for sample in samples])
    records = [] if journal is None else list(journal.records)
    done = {record.name for record in records}
    matrix = add_up(benchmark.names, records)
    for batch in _batches([sample for sample in samples if sample.name not in done], batch_size):
        loaded, failure = _load(batch)
        for sample, labels, (_, truth) in zip(batch, predict(loaded) if loaded else [], loaded, strict=False):
            one = ConfusionMatrix(benchmark.names)
            one.update(labels, truth)
            record = PictureRecord.of(sample.name, one)
            if journal is not None:
                journal.add(record)
            records.append(record)
            matrix = matrix.merge(one)
        if failure is not None:  # only now: what was read before it counts
            raise failure
        if report is not None:
            report(len(records), len(samples), final_metrics(matrix, config))
    return Outcome(benchmark, matrix, records, config, predict)


def _load(batch: Sequence[Sample]) -> tuple[list[tuple[np.ndarray, np.ndarray]], Talk2DinoError | None]:
    """Pictures and truths, up to the first that cannot be read."""
    loaded: list[tuple[np.ndarray, np.ndarray]] = []
    for sample in batch:
        try:
            loaded.append(sample.load())
        except Talk2DinoError as error:
            return loaded, error
    return loaded, None


def _batches(samples: list[Sample], size: int) -> Iterator[list[Sample]]:
    if size < 1:
        raise InputError(f"batch_size must be at least 1; got {size}")
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


class Predictor:
    """A system as a function from loaded samples to label maps in the benchmark's order.

    Systems without words (``matched``) give clusters, which are matched to classes over the whole run, or are given the
    truth here: each picture's segments are matched to its classes.

    Attributes:
        threshold: the background threshold used; None where there is no background, or the system has its own way.
        classes: class of each cluster; set once a run has been matched, to paint its pictures.
    """

    def __init__(self, method: Any, benchmark: Benchmark, options: EvaluationOptions) -> None:
        self.method = method
        self.benchmark = benchmark
        self.options = options
        self.classes: np.ndarray | None = None
        self.matched = method.method.facts.matched
        self.each_picture = self.matched and method.method.options["matching"] == "picture"
        self.text = method.encode_text(benchmark_prompts(benchmark, options))
        self.settings: dict[str, Any] = {"refine": options.refine, "mode": options.mode_used}
        self.threshold: float | None = None
        if self.matched:
            if options.background is not None or options.clean:
                raise InputError(f"{options.method} has no background threshold and no cleaning: leave them out")
            if not self.each_picture:
                pictures = (sample.load()[0] for sample in open_samples(options)[1][:FIT_PICTURES])
                self.text = method.method.fit(map(method.encode_image, pictures), len(benchmark.names))
            return
        self.settings["clean"] = options.clean_used
        if benchmark.background:
            self.threshold = background_threshold(method, options)
            self.settings["background"] = True if self.threshold is None else self.threshold
        elif options.background is not None:
            raise InputError(f"{benchmark.name} has no background class: leave the threshold out")

    def __call__(self, loaded: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
        results = self.method.segment_batch([picture for picture, _ in loaded], self.text, **self.settings)
        labels = [result.labels for result in results]
        if self.classes is not None:
            return [self.classes[one] for one in labels]
        if not self.each_picture:
            return labels
        count = len(self.benchmark.names)
        return [match_segments(one, truth, count) for one, (_, truth) in zip(labels, loaded, strict=True)]


def background_threshold(segmenter: Any, options: EvaluationOptions) -> float | None:
    """The threshold asked for, else the method's own."""
    if options.background is not None:
        return check_threshold(segmenter.method, options.background)
    return segmenter.method.threshold


def run(
    options: EvaluationOptions, out: str | Path | None = None, *, shard: tuple[int, int] = (1, 1), method: Any = None,
    batch_size: int = 8, report: Report | None = None,
) -> tuple[Outcome, Any]:  # fmt: skip
    """Load the system, evaluate, keep a journal in ``out``; returns the outcome and the system."""
    open_samples(options, shard)  # what is wrong with the data is told before the model is loaded
    if method is None:
        method = load_system(options)
    outcome = evaluate(method, options, out=out, shard=shard, batch_size=batch_size, report=report)
    return outcome, method


def load_system(options: EvaluationOptions) -> Any:
    """The system that the options name."""
    from talk2dino.segmenter import Segmenter

    return Segmenter.from_pretrained(
        options.model, method=options.method, projection=options.projection, device=options.device, dtype=options.dtype,
        **options.method_options,
    )  # fmt: skip
