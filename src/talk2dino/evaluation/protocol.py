"""The published protocol: a benchmark and a system in, a confusion matrix out, image by image.

    sample -> image, truth -> Segmenter.segment_batch (windows, background, cleaning, refinement) -> labels -> counts

The slide mode of the segmenter is the protocol itself: short side 448, windows of 448 with stride 224, overlaps averaged,
the map resized to the label's size, and the background a constant channel in front. This file adds what surrounds it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from talk2dino.errors import PromptError, Talk2DinoError
from talk2dino.evaluation.datasets import Benchmark, Sample, open_benchmark, world_samples
from talk2dino.evaluation.journal import ImageRecord, add_up, hash_names, open_shard
from talk2dino.evaluation.matching import FIT_IMAGES, final_metrics, match_segments
from talk2dino.evaluation.metrics import ConfusionMatrix, Metrics
from talk2dino.evaluation.options import EvaluationOptions
from talk2dino.evaluation.world import SCENE_COUNT, held_out_seeds, world_prompts
from talk2dino.methods import method_class
from talk2dino.pipeline import read_thresholds
from talk2dino.progress import ProgressCallback
from talk2dino.segmenter import Segmenter
from talk2dino.words.prompts import read_prompt_file

Loaded = tuple[np.ndarray, np.ndarray]  # (H, W, 3) uint8 RGB and (H, W) class indices
#: Increases when the protocol changes in a way that changes figures. 0.1.0 had none; 2 resizes as OpenCV does, to the bit.
PROTOCOL = 2


def open_samples(options: EvaluationOptions, benchmark: Benchmark) -> list[Sample]:
    """The images of a run, all shards together: the first ``limit`` of the benchmark."""
    if not benchmark.on_disk:
        unseen: bool | Literal["all"] = "all" if options.held_out == "all" else options.held_out == "one"
        return world_samples(held_out_seeds(options.limit or SCENE_COUNT), held_out=unseen)
    return open_benchmark(benchmark.name, options.data)[1][: options.limit]


def benchmark_prompts(benchmark: Benchmark, options: EvaluationOptions) -> dict[str, list[str]]:
    """Class -> its prompts: the class name, unless a synonym file or a prompt variant replaces it."""
    prompts = {name: [name] for name in benchmark.prompts}
    if not benchmark.on_disk:
        prompts = {name: [word] for name, word in zip(prompts, world_prompts(options.prompts), strict=True)}
    if options.synonyms is not None:
        given = read_prompt_file(options.synonyms)
        unknown = [name for name in given.names if name not in prompts]
        if unknown:
            raise PromptError(f"{options.synonyms} names classes that {benchmark.name} lacks: {', '.join(unknown[:5])}")
        prompts |= {name: list(words) for name, words in zip(given.names, given.synonyms, strict=True)}
    return prompts


class Predictor:
    """Labels images of a benchmark in its class order; segments without a class are matched here per image, or later.

    Attributes:
        threshold: the background threshold; None if there is no background, or the method has none.
        classes: class of each cluster, set after a run was matched, so that its images can be drawn.
    """

    def __init__(self, segmenter: Segmenter, benchmark: Benchmark, options: EvaluationOptions) -> None:
        own = {**method_class(options.method).benchmark_options(benchmark.name), **options.method_options}
        self.segmenter = segmenter.with_method(options.method, **own)
        self.benchmark, self.options = benchmark, options
        self.mode = options.mode_on(benchmark)
        self.classes: np.ndarray | None = None
        matched = self.segmenter.method.facts.matched
        self.match_each = matched and options.matching == "image"
        prompts = benchmark_prompts(benchmark, options)
        if matched and not self.match_each:  # clusters of the segments of the first images, in place of words
            samples = open_samples(options, benchmark)[:FIT_IMAGES]
            features = (self.segmenter.encode_image(sample.load()[0], mode=self.mode) for sample in samples)
            self.text = self.segmenter.method.fit(features, len(benchmark.names))
        else:
            self.text = self.segmenter.encode_text(prompts)
        self.threshold: float | None = None
        if benchmark.background and not matched:
            asked = True if options.background is None else options.background
            thresholds = read_thresholds(self.segmenter.method, self.text.names, asked)
            self.threshold = None if thresholds is None else round(float(thresholds[0]), 6)

    def __call__(self, loaded: Sequence[Loaded]) -> list[np.ndarray]:
        """(H, W) labels of each image; -1 stands for none of the classes."""
        results = self.segmenter.segment_batch(
            [image for image, _ in loaded], self.text, background=self.threshold,
            clean=self.options.clean_on(self.benchmark), refine=self.options.refine, mode=self.mode,
        )  # fmt: skip
        labels = [result.labels for result in results]
        if self.classes is not None:
            return [self.classes[one] for one in labels]
        if not self.match_each:
            return labels
        count = len(self.benchmark.names)
        return [match_segments(one, truth, count) for one, (_, truth) in zip(labels, loaded, strict=True)]

    def config(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """What made a result, with everything resolved, as plain values.

        All but "run" (where things are and what it ran on) decide the figures.

        Args:
            samples: the images of the whole run, all shards together.
        """
        options, segmenter, method = self.options, self.segmenter, self.segmenter.method
        settings = options.settings_on(self.benchmark)
        fingerprints = segmenter.towers.checksums(method.facts.towers) | method.fingerprints()
        if options.synonyms is not None:
            fingerprints["synonyms"] = hashlib.sha256(options.synonyms.read_bytes()).hexdigest()[:16]
        return settings | {
            "protocol": PROTOCOL,
            "model": segmenter.name,
            "dtype": str(segmenter.dtype).removeprefix("torch."),
            "background": self.threshold,
            "cleaning": segmenter.config.variant if settings["clean"] else None,
            "templates": list(segmenter.text.templates),
            "size": method.size,
            "system": method.options,
            "labels": dict(Counter(sample.source for sample in samples if sample.source)),
            "images": {"count": len(samples), "sha256": hash_names(sample.name for sample in samples)},
            "fingerprints": fingerprints,
            "understood": [list(one) for one in self.text.understood] or None,
            "run": {
                "model": options.model,
                "projection": None if options.projection is None else str(options.projection),
                "source": segmenter.config.source,
                "data": None if options.data is None else str(options.data),
                "device": str(segmenter.device),
                "engine": segmenter.engine,
                "batch_size": options.batch_size,
                "threshold_source": "set by the caller"
                if self.threshold != method.threshold
                else method.threshold_source,
            },
        }


@dataclass(frozen=True)
class Outcome:
    """The result of a run or of one shard; ``predict`` labels further images in the same way."""

    matrix: ConfusionMatrix
    records: Sequence[ImageRecord]
    config: dict[str, Any]
    predict: Predictor

    @property
    def metrics(self) -> Metrics:
        return final_metrics(self.matrix, self.config)


def run_benchmark(
    segmenter: Segmenter, benchmark: Benchmark, options: EvaluationOptions, *, folder: Path | None = None,
    progress: ProgressCallback | None = None,
) -> Outcome:  # fmt: skip
    """Evaluate a method on one benchmark; images whose counts are in ``folder`` already are not evaluated again.

    Raises:
        DataError: an image or label is missing, damaged, of another size, or has values outside the class list.
        InputError: ``folder`` holds another run, or the method refuses a setting.
        OutputError: another process is evaluating the same shard into ``folder``.
    """
    everything = open_samples(options, benchmark)
    samples = everything[options.shard[0] - 1 :: options.shard[1]]
    predict = Predictor(segmenter, benchmark, options)
    config = predict.config(everything)
    names = [sample.name for sample in samples]
    with nullcontext() if folder is None else open_shard(folder, config, options.shard, names) as journal:
        records = [] if journal is None else list(journal.records)
        done = {record.name for record in records}
        matrix = add_up(benchmark.names, records)
        if progress is not None and records:
            progress(len(records), len(samples))
        remaining = [sample for sample in samples if sample.name not in done]
        for start in range(0, len(remaining), options.batch_size):
            batch = remaining[start : start + options.batch_size]
            loaded, failure = _load(batch)
            for sample, labels, (_, truth) in zip(batch, predict(loaded) if loaded else [], loaded, strict=False):
                one = ConfusionMatrix(benchmark.names)
                one.update(labels, truth)
                record = ImageRecord.of(sample.name, one)
                if journal is not None:
                    journal.add(record)
                records.append(record)
                matrix = matrix.merge(one)
            if failure is not None:  # after the images before it were recorded
                raise failure
            if progress is not None:
                progress(len(records), len(samples), f"mIoU {100 * final_metrics(matrix, config).miou:.2f}")
    return Outcome(matrix, records, config, predict)


def _load(batch: Sequence[Sample]) -> tuple[list[Loaded], Talk2DinoError | None]:
    """Images and truths, up to the first that cannot be read, with its error."""
    loaded: list[Loaded] = []
    for sample in batch:
        try:
            loaded.append(sample.load())
        except Talk2DinoError as error:
            return loaded, error
    return loaded, None
