"""A training run from top to bottom: open the data, set up or resume, loop, validate, save, report."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from talk2dino.errors import DataError, Talk2DinoWarning
from talk2dino.features.manifest import NAME
from talk2dino.features.store import FeatureStore
from talk2dino.io.atomic import remove_leftovers, write_atomically
from talk2dino.io.journal import Record
from talk2dino.io.lock import folder_lock
from talk2dino.models.projection import Projection
from talk2dino.progress import ProgressCallback
from talk2dino.stages.heads import feature_of
from talk2dino.threads import limited_threads
from talk2dino.training.aligner import Aligner, make_optimizer, set_rate
from talk2dino.training.batches import Batches
from talk2dino.training.checkpoint import (
    CHECKPOINT,
    MetricsLog,
    RunState,
    load_checkpoint,
    need_tensorboard,
    save_checkpoint,
    save_projections,
)
from talk2dino.training.options import TrainOptions
from talk2dino.training.processes import Processes, interruptible, is_first_process, joined_processes, own_device
from talk2dino.training.run_report import check_published_layout, describe, write_report
from talk2dino.training.validation import validate

#: A store in memory, or the folders of stores on disk, which count as one.
Stores = FeatureStore | str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class TrainResult:
    """What a run produced."""

    folder: Path
    projection: Projection | None  # of the text side; None if it is not projected
    vision_projection: Projection | None
    steps: int  # those of earlier runs included
    metrics: dict[str, Any]  # the last value of each; None where it was not finite
    model: str | None  # name of the model whose features were used, if the store records it


def train(
    store: Stores,
    options: TrainOptions,
    out: str | Path,
    *,
    validation: Stores | None = None,
    model: str | None = None,
    verify: bool = True,
    device: str = "auto",
    write_pth: bool = False,
    tensorboard: bool = False,
    progress: ProgressCallback | None = None,
) -> TrainResult:
    """Train a projection. Writes projection.safetensors, config.json, metrics.jsonl, figures and a model card to ``out``.

    A folder that holds a checkpoint of the same settings and data is resumed; the result equals that of an uninterrupted
    run. Ctrl-C saves a checkpoint first. Under torchrun, all processes share each batch.

    Args:
        validation: features to validate on; otherwise a share of the images, if ``options`` says so.
        model: refuse features of another model than this one.
        verify: compare the checksums of stores on disk.
        write_pth: write projection.pth, the published layout, too.
        progress: called once at the start, after each record and after each validation, with the number of steps; the
            note holds the validation metrics.

    Raises:
        InputError: settings that do not go together, those of the run in ``out`` included, or a device that is not there.
        DataError: unsuitable or damaged features, fewer captions than a batch, a loss that is not finite, or ``out`` holds
            a run on other data or of more steps.
        OutputError: ``out`` cannot be written, or another run is writing to it.
    """
    where, out = own_device(device), Path(out)
    if write_pth:
        check_published_layout(options)
    if tensorboard:
        need_tensorboard()
    if (out / NAME).exists():
        raise DataError(f"{out} is a feature store: choose another output folder")
    store = _open(store, verify, model)
    if validation is not None:
        validation = _open(validation, verify, model)
        for one, other in zip(store.manifests[:1], validation.manifests[:1], strict=False):
            if different := one.differences(other):
                raise DataError(f"the training and the validation store do not belong together: {'; '.join(different)}")
    with joined_processes(where) as processes:
        if validation is None and options.validation_share:
            store, validation = store.split(options.validation_share, options.seed)
        if validation is not None and (count := validation.num_view_images) < 2:
            raise DataError(
                f"validation needs at least 2 images; got {count}: choose a larger --validation-share, or another store "
                "with --val"
            )
        with folder_lock(out) if processes.first else nullcontext():
            run = _Run(store, options, out, where, processes, tensorboard)
            work = 2.0 * options.batch_size * store.text_dim * store.shape(feature_of(options.strategy))[-1]
            threads = limited_threads(work) if where.type == "cpu" else nullcontext()
            with closing(run.log) if run.log else nullcontext(), threads, interruptible() as interrupted:
                metrics = run.loop(validation, interrupted, progress)
            if run.log is not None:
                records = run.log.journal.records
                write_report(out, run.aligner, run.state, records, store, validation, write_pth=write_pth)
            processes.wait()
    aligner = run.aligner.cpu().eval().requires_grad_(False)
    name = store.manifests[0].model.get("name") if store.manifests else None
    return TrainResult(out, aligner.text_projection, aligner.vision_projection, run.state.step, metrics, name)


def _open(stores: Stores, verify: bool, model: str | None) -> FeatureStore:
    opened = stores if isinstance(stores, FeatureStore) else FeatureStore.open(stores, verify=verify)
    for manifest in opened.manifests:
        made_by = manifest.model.get("name")
        if model is not None and model != made_by:
            raise DataError(f"the features were extracted with the model {made_by}; expected {model} (--model)")
        if not manifest.complete and is_first_process():
            warnings.warn(
                f"a feature store is not finished: its {manifest.images:,} images are used; run its 'talk2dino extract' "
                "again to add the rest",
                Talk2DinoWarning,
                stacklevel=3,
            )
    return opened


class _Run:
    """The parts of a run, set up or restored from its last checkpoint."""

    def __init__(
        self, store: FeatureStore, options: TrainOptions, out: Path, device: torch.device, processes: Processes,
        tensorboard: bool,
    ) -> None:  # fmt: skip
        self.options, self.out, self.device, self.processes = options, out, device, processes
        self.batches = Batches(store, options, device, processes)
        shape = store.shape(feature_of(options.strategy))
        heads = shape[0] if len(shape) == 2 else 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.aligner = Aligner(options, store.text_dim, shape[-1]).to(device)
        self.optimizer = make_optimizer(self.aligner, options)
        self.data = store.fingerprint()
        self.state = load_checkpoint(out, self.aligner, self.optimizer, self.data) or RunState()
        if self.state.step > self.batches.total_steps:
            raise DataError(
                f"{out} holds a run of {self.state.step} steps, more than the {self.batches.total_steps} asked for: ask for "
                "at least as many, or choose another output folder"
            )
        if not len(self.state.head_counts):
            self.state.head_counts = torch.zeros(heads, dtype=torch.long)
        self._counts = torch.zeros(heads, dtype=torch.long, device=device)
        self.log = None
        if processes.first:
            remove_leftovers(out)
            write_atomically(out / "config.json", json.dumps(describe(self.aligner, store), indent=1) + "\n")
            self.log = MetricsLog(out, self.state.metrics_bytes, tensorboard=tensorboard)

    def loop(
        self, validation: FeatureStore | None, interrupted: Callable[[], bool], progress: ProgressCallback | None
    ) -> Record:
        """Train to the last step; returns the last value of each metric."""
        options, state, batches = self.options, self.state, self.batches
        save_every = options.save_every or batches.steps_per_epoch
        validate_every = options.validate_every or batches.steps_per_epoch
        last: Record = {}

        def record(note: str = "", **values: Any) -> None:
            # JSON cannot hold numbers that are not finite.
            last.update({n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in values.items()})
            if self.log is not None:
                self.log.write({name: last[name] for name in values})
                if progress is not None:
                    progress(state.step, batches.total_steps, note)

        if progress is not None and self.log is not None:
            progress(state.step, batches.total_steps)
        since, started = 0, time.perf_counter()
        while state.step < batches.total_steps:
            state.losses += self._step(state.step)
            state.losses_of += 1
            state.step += 1
            since += 1
            final = state.step == batches.total_steps
            if state.step % options.log_every == 0 or final:
                record(
                    step=state.step,
                    epoch=round(state.step / batches.steps_per_epoch, 4),
                    loss=state.losses / state.losses_of,
                    lr=self.optimizer.param_groups[0]["lr"],
                    temperature=self.aligner.temperature,
                    steps_per_second=round(since / (time.perf_counter() - started), 2),
                )
                state.losses, state.losses_of = 0.0, 0
                since, started = 0, time.perf_counter()
            if validation is not None and (state.step % validate_every == 0 or final) and self.processes.first:
                metrics = validate(self.aligner, validation, self.device, limit=options.validation_limit)
                record(_note(metrics), step=state.step, **metrics)
                if metrics["validation_loss"] < state.best:
                    state.best, state.at_best = metrics["validation_loss"], state.step
                    save_projections(self.out / "best", self.aligner, state.step)
                    write_atomically(self.out / "best" / "config.json", (self.out / "config.json").read_bytes())
                started = time.perf_counter()
            stop = interrupted()
            if self.processes.count > 1:  # all stop at the same step
                stop = bool(self.processes.sum_(torch.tensor(int(stop), device=self.device)))
            if state.step % save_every == 0 or final or stop:
                self.save()
            if stop:
                raise KeyboardInterrupt
        return last

    def _step(self, step: int) -> float:
        """Forward, backward and optimizer step; returns the loss of the whole batch. A bad loss stops the run."""
        set_rate(self.optimizer, self.options, step, self.batches.total_steps)
        batch = self.batches[step]
        loss, chosen = self.aligner(batch.images, batch.captions, batch.image_ids, batch.noise)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        value = float(self._sum_gradients(loss.detach()))
        if not math.isfinite(value):
            raise DataError(self._not_finite(step, value))
        self.optimizer.step()
        if chosen is not None:
            self._counts.index_add_(0, chosen, torch.ones_like(chosen))
        return value

    def _sum_gradients(self, loss: Tensor) -> Tensor:
        """Sum the gradients over the processes, in one message with the loss; each has its part of the whole batch's."""
        if self.processes.count == 1:
            return loss
        gradients = [p.grad for p in self.aligner.parameters() if p.grad is not None]
        message = self.processes.sum_(parameters_to_vector([*gradients, loss]))
        vector_to_parameters(message, gradients)
        return message[-1]

    def save(self) -> None:
        """Write a checkpoint; all processes must call this, the first one writes. Refuses weights that are not finite."""
        if not self._is_finite():
            raise DataError(
                f"the weights are no longer finite at step {self.state.step}: lower the learning rate and choose another "
                f"output folder. {self._last_checkpoint()}"
            )
        self.state.head_counts = self.state.head_counts + self.processes.sum_(self._counts).cpu()
        self._counts = torch.zeros_like(self._counts)
        if self.log is not None:
            self.state.metrics_bytes = self.log.journal.size()
            save_checkpoint(self.out, self.aligner, self.optimizer, self.state, self.data)

    def _is_finite(self) -> bool:
        return all(bool(torch.isfinite(value).all()) for value in self.aligner.state_dict().values())

    def _last_checkpoint(self) -> str:
        found = (self.out / CHECKPOINT).exists()
        return f"{self.out} {'keeps the last checkpoint before that' if found else 'has no checkpoint yet'}"

    def _not_finite(self, step: int, value: float) -> str:
        """Save what was before a step whose loss is not finite, if it is; returns why, from the batch of all processes."""
        kept = self._last_checkpoint()
        if self._is_finite():
            self.save()
            kept = f"{self.out} keeps the state before this step"
        batch, names = self.batches[step], ("images", "captions")
        flags = [int(not bool(torch.isfinite(getattr(batch, name)).all())) for name in names]
        found = self.processes.sum_(torch.tensor(flags, device=self.device)).tolist()
        cause, advice = "the features are finite", "Lower the learning rate and choose another output folder"
        if damaged := [name for name, count in zip(names, found, strict=True) if count]:
            cause = f"the stored {' and '.join(damaged)} of this batch are not finite"
            advice = "Extract the damaged shard again"
        rows = self.batches.rows(step)
        place = f"step {step} (caption rows {int(rows[0])} to {int(rows[-1])})"
        return f"the loss became {value} at {place}: {cause}. {kept}. {advice}"


def _note(metrics: dict[str, float]) -> str:
    """Validation metrics for the progress line."""
    loss = metrics["validation_loss"]
    shown = f"{loss:.6g}" if math.isfinite(loss) else "not finite (check the held-out features); best/ is not replaced"
    return ", ".join([f"validation loss {shown}", *(f"{n} {v:.3f}" for n, v in metrics.items() if "@" in n)])
