"""pictures.png of a report: the worst and the best pictures of all shards, predicted again for the occasion."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from talk2dino.errors import InputError
from talk2dino.evaluation.charts import case_grid
from talk2dino.evaluation.datasets import get_benchmark
from talk2dino.evaluation.journal import PictureRecord, add_up, check_same
from talk2dino.evaluation.matching import cluster_classes, final_records, matched_over_benchmark
from talk2dino.evaluation.options import EvaluationOptions, make_options
from talk2dino.evaluation.protocol import Predictor, load_system, open_samples
from talk2dino.evaluation.provenance import resolved_config
from talk2dino.io.atomic import write_atomically


def draw_cases(config: dict[str, Any], records: Sequence[PictureRecord], predict: Predictor, folder: Path) -> bool:
    """Write pictures.png; False when no picture has a figure.

    Args:
        config, records: of the whole run, as ``read_journals`` gives them.
        predict: labels pictures as the run did.
    """
    benchmark = get_benchmark(config["benchmark"])
    matrix = add_up(benchmark.names, records)
    if matched_over_benchmark(config):
        predict.classes = cluster_classes(matrix)
    samples = open_samples(predict.options)[1]
    grid = case_grid(benchmark, samples, final_records(records, matrix, config), predict)
    if grid is None:
        return False
    content = io.BytesIO()
    grid.save(content, "PNG")
    write_atomically(folder / "pictures.png", content.getvalue())
    return True


def predictor_of(config: dict[str, Any], *, data: Path | None = None, device: str | None = None) -> Predictor:
    """What labels further pictures of a run that was made elsewhere or before, from its configuration.

    Args:
        data: where the data lie now; None: where they lay then.

    Raises:
        Talk2DinoError: the data or the model are not at hand, or not those of the run any more.
    """
    options = options_of(config, data=data, device=device)
    benchmark, samples = open_samples(options)
    system = load_system(options)
    predict = Predictor(system, benchmark, options)
    now = resolved_config(options, system, samples, threshold=predict.threshold, batch_size=1)
    try:
        check_same({key: config.get(key) for key in now}, now, Path("the merged folder"))
    except InputError as error:
        raise InputError(f"what is at hand is not what was evaluated: {error}") from None
    return predict


def options_of(config: dict[str, Any], *, data: Path | None = None, device: str | None = None) -> EvaluationOptions:
    """The options that lead to a configuration again."""
    values = {name: config[name] for name in EvaluationOptions.model_fields if name in config}
    made_on = config.get("run", {})
    return make_options(values | {
        "model": made_on.get("model", config["model"]), "data": data or made_on.get("data"), "device": device or "auto",
    })  # fmt: skip
