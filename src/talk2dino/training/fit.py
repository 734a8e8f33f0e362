"""A training run, top to bottom: set up, take up, loop, validate, save, report."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from talk2dino.errors import DataError, OutputError
from talk2dino.features.manifest import NAME
from talk2dino.features.store import FeatureStore
from talk2dino.io.atomic import remove_leftovers, write_atomically
from talk2dino.io.lock import folder_lock
from talk2dino.models.projection import Projection
from talk2dino.stages.heads import feature_of
from talk2dino.training.aligner import Aligner
from talk2dino.training.batches import Batches
from talk2dino.training.checkpoint import (
    CHECKPOINT,
    MetricsLog,
    Progress,
    finite_or_none,
    load_checkpoint,
    need_tensorboard,
    save_checkpoint,
    save_projections,
)
from talk2dino.training.options import FitConfig
from talk2dino.training.processes import Processes, joined_processes, own_device
from talk2dino.training.run_report import check_published, describe, write_report
from talk2dino.training.validation import validate


@dataclass(frozen=True)
class FitResult:
    """What a run left: its folder, the projection of the text side (None for side "vision"), and its last figures.

    Attributes:
        metrics: the last value of each figure; None where it was not finite.
        drawn: whether there are curves.png and heads.png; matplotlib draws them (extra "plots").
    """

    folder: Path
    projection: Projection | None
    vision_projection: Projection | None
    steps: int
    metrics: dict[str, Any]
    drawn: bool


def fit(
    store: FeatureStore,
    config: FitConfig,
    out: str | Path,
    *,
    validation: FeatureStore | None = None,
    device: str = "auto",
    published: bool = False,
    tensorboard: bool = False,
    watch: Callable[[dict[str, Any]], None] | None = None,
) -> FitResult:
    """Train an alignment and leave a folder: projection.safetensors, config.json, metrics.jsonl, curves, card.

    A folder that already holds a checkpoint of the same settings is gone on with, exactly. Ctrl-C saves first.

    Args:
        store: features of pictures and captions; :meth:`FeatureStore.open` or :meth:`FeatureStore.from_tensors`.
        validation: a store to validate on; else a share of the pictures when the configuration says so.
        published: write projection.pth in the published layout, too.
        watch: called with each record of metrics.jsonl, and total_steps and first_step (where this run began) besides.

    Raises:
        InputError: settings that do not go with ``published``, or a device that is not there.
        DataError: the store has not what the strategy reads, is smaller than a batch, the loss is not finite, or the
            folder holds a run of other settings, on other data, or of more steps already.
        OutputError: the folder cannot be written, or another run is writing there.
    """
    where = own_device(device)
    out = Path(out)
    if published:
        check_published(config)
    if tensorboard:
        need_tensorboard()
    if (out / NAME).exists():
        raise DataError(f"{out} is a feature store; choose another folder for the run")
    with joined_processes(where) as processes:
        if validation is None and config.validation_share:
            store, validation = store.split(config.validation_share, config.seed)
        if validation is not None and (count := validation.num_view_images) < 2:
            raise DataError(
                f"{count} picture{'s' * (count != 1)} to validate on, but at least 2 are needed: choose a larger "
                "validation share, or another store for it"
            )
        with folder_lock(out) if processes.first else nullcontext():
            run = _Run(store, config, out, where, processes, tensorboard)
            with run.log or nullcontext(), _interruptible() as interrupted:
                metrics = run.loop(validation, interrupted, watch)
            drawn = processes.first and write_report(
                out, run.aligner, run.progress.head_counts, store, validation, published=published
            )
            processes.wait()
    aligner = run.aligner.cpu().eval().requires_grad_(False)
    return FitResult(out, aligner.text_projection, aligner.vision_projection, run.progress.step, metrics, drawn)


class _Run:
    """The parts of a run, put together and brought to where the last one stopped."""

    def __init__(
        self,
        store: FeatureStore,
        config: FitConfig,
        out: Path,
        device: torch.device,
        processes: Processes,
        tensorboard: bool,
    ) -> None:
        self.config, self.out, self.device, self.processes = config, out, device, processes
        self.batches = Batches(store, config, device, processes)
        shape = store.shape(feature_of(config.strategy))
        self.heads = shape[0] if len(shape) == 2 else 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.aligner = Aligner(config, store.text_dim, shape[-1]).to(device)
        self.optimizer = make_optimizer(self.aligner, config)
        if processes.first:
            try:
                out.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"cannot make the folder {out}: {error.strerror}") from error
        processes.wait()
        self.data = store.fingerprint()
        self.progress = load_checkpoint(out, self.aligner, self.optimizer, self.data) or Progress()
        self.first_step = self.progress.step
        if self.first_step > self.batches.total_steps:
            raise DataError(
                f"{out} holds a run of {self.first_step} steps, more than the {self.batches.total_steps} that were asked for "
                "now: ask for at least as many, or give another folder"
            )
        if not len(self.progress.head_counts):
            self.progress.head_counts = torch.zeros(self.heads, dtype=torch.long)
        self._counts = torch.zeros(self.heads, dtype=torch.long, device=device)
        self.log = None
        if processes.first:
            remove_leftovers(out)
            write_atomically(out / "config.json", json.dumps(describe(self.aligner, store), indent=1) + "\n")
            self.log = MetricsLog(out, self.progress.metrics_bytes, tensorboard=tensorboard)

    def loop(
        self,
        validation: FeatureStore | None,
        interrupted: Callable[[], bool],
        watch: Callable[[dict[str, Any]], None] | None,
    ) -> dict[str, Any]:
        config, progress, batches = self.config, self.progress, self.batches
        save_every = config.save_every or batches.steps_per_epoch
        validate_every = config.validate_every or batches.steps_per_epoch
        last: dict[str, Any] = {}

        def record(**values: Any) -> None:
            values = finite_or_none(values)
            last.update(values)
            if self.log is not None:
                self.log.write(values)
                if watch is not None:
                    watch({**values, "total_steps": batches.total_steps, "first_step": self.first_step})

        since, started = 0, time.perf_counter()
        while progress.step < batches.total_steps:
            loss = self._step(progress.step)
            progress.step += 1
            progress.add_loss(loss)
            since += 1
            final = progress.step == batches.total_steps
            if progress.step % config.log_every == 0 or final:
                record(
                    step=progress.step,
                    epoch=round(progress.step / batches.steps_per_epoch, 4),
                    loss=progress.take_loss(),
                    lr=self.optimizer.param_groups[0]["lr"],
                    temperature=self.aligner.temperature,
                    steps_per_second=round(since / (time.perf_counter() - started), 2),
                )
                since, started = 0, time.perf_counter()
            if validation is not None and (progress.step % validate_every == 0 or final) and self.processes.first:
                figures = validate(self.aligner, validation, self.device, limit=config.validation_limit)
                record(step=progress.step, **figures)
                if figures["validation_loss"] < progress.best:
                    progress.best, progress.at_best = figures["validation_loss"], progress.step
                    save_projections(self.out / "best", self.aligner, progress.step)
                    write_atomically(self.out / "best" / "config.json", (self.out / "config.json").read_bytes())
                started = time.perf_counter()
            stop = self._anybody(interrupted())
            if progress.step % save_every == 0 or final or stop:
                self.save()
            if stop:
                raise KeyboardInterrupt
        return last

    def _step(self, step: int) -> float:
        """One forward, backward and optimizer step; the loss of the whole batch. Refuses to step on a bad loss."""
        set_rate(self.optimizer, self.config, step, self.batches.total_steps)
        batch = self.batches[step]
        loss, chosen = self.aligner(batch.images, batch.captions, batch.image_ids, batch.noise)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        value = float(self._sum_gradients(loss.detach()))
        if not math.isfinite(value):
            kept = self._is_finite()
            if kept:
                self.save()
            raise DataError(self._not_finite(step, value, kept))
        self.optimizer.step()
        if chosen is not None:
            self._counts.index_add_(0, chosen, torch.ones_like(chosen))
        return value

    def _sum_gradients(self, loss: Tensor) -> Tensor:
        """Sum gradients over the processes, in one message with the loss; each has its part of the whole batch's."""
        if self.processes.count == 1:
            return loss
        gradients = [p.grad for p in self.aligner.parameters() if p.grad is not None]
        message = self.processes.sum_(torch.cat([*(g.reshape(-1) for g in gradients), loss.reshape(1)]))
        for gradient, part in zip(gradients, message[:-1].split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
        return message[-1]

    def _anybody(self, flag: bool) -> bool:
        """Whether any process was interrupted; asked by all of them together."""
        if self.processes.count == 1:
            return flag
        return bool(self.processes.sum_(torch.tensor(int(flag), device=self.device)))

    def save(self) -> None:
        """Write a checkpoint; every process takes part, the first one writes. Bad weights never replace good ones."""
        if not self._is_finite():
            step = self.progress.step
            raise DataError(
                f"the weights stopped being finite at step {step}: lower the learning rate, in another folder; "
                f"{self._kept()}"
            )
        counts = self.processes.sum_(self._counts).cpu()
        self.progress.head_counts = self.progress.head_counts + counts
        self._counts = torch.zeros_like(self._counts)
        if self.log is not None:
            self.progress.metrics_bytes = self.log.length()
            save_checkpoint(self.out, self.aligner, self.optimizer, self.progress, self.progress.head_counts, self.data)

    def _is_finite(self) -> bool:
        return all(bool(torch.isfinite(value).all()) for value in self.aligner.state_dict().values())

    def _kept(self) -> str:
        if (self.out / CHECKPOINT).exists():
            return f"{self.out} keeps its last checkpoint, from before that"
        return f"{self.out} has no checkpoint yet"

    def _not_finite(self, step: int, value: float, kept: bool) -> str:
        batch = self.batches[step]
        names = ("images", "captions")
        flags = [int(not bool(torch.isfinite(getattr(batch, name)).all())) for name in names]
        found = self.processes.sum_(torch.tensor(flags, device=self.device)).tolist()  # of every process's part
        damaged = [name for name, count in zip(names, found, strict=True) if count]
        cause = (
            f"the stored {' and '.join(damaged)} of this batch are not finite" if damaged else "the features are fine"
        )
        advice = "extract the damaged shard again" if damaged else "lower the learning rate, in another folder"
        rows = self.batches.rows(step)
        return (
            f"the loss became {value} at step {step} (caption rows {int(rows[0])} to {int(rows[-1])}): {cause}; "
            f"{f'the state before it is kept in {self.out}' if kept else self._kept()}. {advice}"
        )


def make_optimizer(aligner: Aligner, config: FitConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over what is trained, in its fused form: the same formula, fewer passes over memory."""
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    trained = [parameter for parameter in aligner.parameters() if parameter.requires_grad]
    return kind(trained, lr=config.lr, weight_decay=config.weight_decay, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, config: FitConfig, step: int, total: int) -> None:
    """Learning rate of a step: linear warm-up, then constant or half a cosine down to 0."""
    rate = config.lr
    if step < config.warmup_steps:
        rate *= (step + 1) / config.warmup_steps
    elif config.schedule == "cosine":
        done = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
        rate *= 0.5 * (1 + math.cos(math.pi * done))
    for group in optimizer.param_groups:
        group["lr"] = rate


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C (and SIGTERM) wait for the end of a step; a second Ctrl-C does not wait."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
