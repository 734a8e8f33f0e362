"""An evaluation on a Ray cluster."""

from __future__ import annotations

from pathlib import Path

from talk2dino.errors import InputError
from talk2dino.evaluation.options import EvaluationOptions
from talk2dino.evaluation.runs import EvaluationResult, evaluate, merge_runs
from talk2dino.progress import ProgressCallback
from talk2dino.scale.ray.cluster import choose_pool, connect, nodes, sentence


def evaluate_on_ray(
    options: EvaluationOptions,
    *,
    address: str = "auto",
    parts: int | None = None,
    progress: ProgressCallback | None = None,
) -> EvaluationResult:
    """Evaluate on a Ray cluster: the shards of one run side by side, then merged; the counts are those of one process.

    Args:
        options: with ``out``, a folder that every node reaches; the shards go to ``out/shards``. Finished ones are kept.
        parts: number of shards; twice the actors by default, so that a slow node holds up little.
        progress: called after each shard.

    Raises:
        InputError: no ``out``, a shard was asked for, or no cluster at the address. Talk2DinoError: as ``evaluate``.
    """
    if options.out is None:
        raise InputError("an evaluation on a cluster needs a folder that every node reaches: add --out")
    if options.shard != (1, 1):
        raise InputError("--ray makes the shards itself: leave --shard out")
    mine = connect(address)
    import ray

    try:
        pool = choose_pool(nodes(ray))
        count = parts or 2 * pool.actors
        out = options.out.resolve()
        each = [
            options.model_copy(update={"shard": (i, count), "out": out / "shards" / f"{i}-of-{count}"})
            for i in range(1, count + 1)
        ]
        task = ray.remote(_evaluate_shard).options(num_cpus=pool.cpus, num_gpus=pool.gpus or None, max_retries=3)
        waiting = [task.remote(one, pool.threads) for one in each]
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1)
            ray.get(done)
            if progress is not None:
                progress(count - len(waiting), count)
    except ray.exceptions.RayError as error:
        raise sentence(error) from error
    finally:
        if mine:
            ray.shutdown()
    return merge_runs([Path(str(one.out)) for one in each], out=options.out)


def _evaluate_shard(options: EvaluationOptions, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    evaluate(options)
