"""Distilling a text tower from top to bottom: read the English with the model, learn it from the other language, save.

    English texts -> CLIP's text tower (frozen) -> targets (N, C)
    texts         -> encoder, mean, linear      -> (B, C)          squared error and cosine against the targets

Batches, dropout and new weights depend on the seed and the step alone, so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.errors import DataError
from talk2dino.io.atomic import remove_leftovers, write_atomically
from talk2dino.io.journal import Record
from talk2dino.io.lock import folder_lock
from talk2dino.io.markdown import markdown_table
from talk2dino.io.settings import check_same_settings
from talk2dino.models.loading import load_parts
from talk2dino.models.parts import Parts
from talk2dino.models.text_tower import HubTokenizer, TextTower, describe_space, load_encoder, save_text_tower
from talk2dino.progress import ProgressCallback
from talk2dino.training.aligner import set_rate
from talk2dino.training.checkpoint import (
    CHECKPOINT,
    MetricsLog,
    check_same_data,
    reading_checkpoint,
    write_checkpoint,
)
from talk2dino.training.loss import distillation_loss
from talk2dino.training.processes import interruptible, own_device
from talk2dino.training.text.new_encoder import new_encoder
from talk2dino.training.text.options import NEW, TextTrainOptions
from talk2dino.training.text.pairs import Pairs
from talk2dino.words.scripts import language_names

#: English texts that CLIP reads at once while the targets are made.
TARGETS_AT_ONCE = 512


@dataclass(frozen=True)
class TextTrainResult:
    """What a run produced."""

    folder: Path
    steps: int  # those of earlier runs included
    metrics: Record  # the last value of each
    model: str  # whose text space it is


def train_text(
    pairs: Pairs, options: TextTrainOptions, out: str | Path, *, model: str | Path = "auto", device: str = "auto",
    progress: ProgressCallback | None = None,
) -> TextTrainResult:  # fmt: skip
    """Distil a text tower into the text space of a model. Writes a folder for ``text=`` and ``--text`` to ``out``.

    A folder that holds a checkpoint of the same settings and pairs is resumed. Ctrl-C saves a checkpoint first.

    Args:
        model: whose text space: a catalog name, a folder or a hub id.
        progress: called at the start, after each record and after the validation, with the number of steps.

    Raises:
        InputError: settings that do not go together, or other settings than those of the run in ``out``.
        DataError: too few pairs, a loss that is not finite, or ``out`` holds a run on other data.
        CheckpointError, ModelNotFoundError: the model or the encoder cannot be found or read.
        OutputError: ``out`` cannot be written. MissingExtraError: transformers is not installed.
    """
    where, out = own_device(device), Path(out)
    parts = load_parts(model, needs_projection=False)
    with folder_lock(out), interruptible() as interrupted:
        run = _Run(pairs, options, out, parts, where, progress)
        try:
            metrics = run.loop(interrupted, progress)
        finally:
            run.log.close()
    return TextTrainResult(out, run.step, metrics, parts.config.name)


class _Run:
    """The parts of a run, set up or restored from its last checkpoint."""

    def __init__(
        self, pairs: Pairs, options: TextTrainOptions, out: Path, parts: Parts, device: torch.device,
        progress: ProgressCallback | None,
    ) -> None:  # fmt: skip
        self.options, self.out, self.device, self.parts = options, out, device, parts
        learned, held = split_pairs(pairs, options)
        texts, english = [*learned.texts], [*learned.english]
        if options.english:
            added = list(dict.fromkeys(learned.english))
            texts, english = texts + added, english + added
        self.count = len(texts)
        if self.count < options.batch_size:
            raise DataError(
                f"the batch size is {options.batch_size}, but there are {self.count} texts: choose a smaller one"
            )
        if options.encoder == NEW:
            encoder, tokenizer = new_encoder(texts, options)
        else:
            encoder, tokenizer = load_encoder(options.encoder)
        self.tokenizer = HubTokenizer(tokenizer, min(options.context, _positions(encoder)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed + 1)
            self.tower = TextTower(encoder, encoder.config.hidden_size, parts.text.dim, self.tokenizer.context).to(
                device
            )
        self.optimizer = torch.optim.AdamW(
            self.tower.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=True
        )
        self.space = describe_space(parts)
        self.data = f"{pairs.fingerprint()} {self.space['weights']} {self.tokenizer.fingerprint}"
        self.step, length = 0, 0
        if (out / CHECKPOINT).exists():
            length = self._restore()
        self.tokens = self.tokenizer(texts, truncate=True).int()
        self.targets, self.target_rows = self._embed_english(english, progress)
        if self.step == 0:
            with torch.no_grad():  # all English texts share much of their embedding
                self.tower.proj.bias.copy_(self.targets.mean(0))
        self.held = held
        remove_leftovers(out)
        self.log = MetricsLog(out, length)

    @property
    def steps_per_epoch(self) -> int:
        return self.count // self.options.batch_size

    @property
    def total_steps(self) -> int:
        return self.options.max_steps or self.options.epochs * self.steps_per_epoch

    def loop(self, interrupted: Callable[[], bool], progress: ProgressCallback | None) -> Record:
        """Train to the last step, validate and save; returns the last value of each metric."""
        options, total = self.options, self.total_steps
        save_every = options.save_every or self.steps_per_epoch
        last: Record = {}
        losses: list[float] = []

        def record(note: str = "", **values: Any) -> None:
            last.update(values)
            self.log.write({"step": self.step, **values})
            if progress is not None:
                progress(self.step, total, note)

        if progress is not None:
            progress(self.step, total)
        self.tower.train()
        started, since = time.perf_counter(), 0
        while self.step < total:
            losses.append(self._step())
            since += 1
            final = self.step == total
            if self.step % options.log_every == 0 or final:
                speed = round(since / (time.perf_counter() - started), 2)
                record(loss=sum(losses) / len(losses), lr=self.optimizer.param_groups[0]["lr"], steps_per_second=speed)
                losses, started, since = [], time.perf_counter(), 0
            stop = interrupted()
            if self.step % save_every == 0 or final or stop:
                self._save()
            if stop:
                raise KeyboardInterrupt
        if self.held is not None:
            metrics = self.validate(self.held)
            record(", ".join(f"{name} {value:.3f}" for name, value in metrics.items()), **metrics)
        self._write_tower(last)
        return last

    def _step(self) -> float:
        """Forward, backward and optimizer step; returns the loss."""
        options = self.options
        set_rate(self.optimizer, options, self.step, self.total_steps)
        rows = batch_rows(self.step, self.count, options)
        tokens = self.tokens[rows].long()
        ends = tokens.eq(self.tokenizer.end).int().argmax(1)
        tokens = tokens[:, : int(ends.max()) + 1].to(self.device)
        target = self.targets[self.target_rows[rows]].to(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed * 1_000_003 + self.step)  # dropout
            found = self.tower(tokens, ends.to(self.device))
            loss = distillation_loss(found, target, mse=options.mse, cosine=options.cosine)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DataError(
                f"the loss became {value} at step {self.step}: lower the learning rate (--lr) and choose another output folder"
            )
        torch.nn.utils.clip_grad_norm_(self.tower.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return value

    @torch.no_grad()
    def validate(self, pairs: Pairs) -> dict[str, float]:
        """The mean cosine with the English of held-out texts, and how often that is the nearest of all English texts."""
        self.tower.eval()
        english = list(dict.fromkeys(pairs.english))
        targets = F.normalize(self.parts.text.embed(english, truncate=True), dim=1)
        tokens = self.tokenizer(pairs.texts, truncate=True)
        ends = tokens.eq(self.tokenizer.end).int().argmax(1)
        parts = [
            self.tower(rows.to(self.device), at.to(self.device)).float().cpu()
            for rows, at in zip(tokens.split(256), ends.split(256), strict=True)
        ]
        self.tower.train()
        cosines = F.normalize(torch.cat(parts), dim=1) @ targets.T
        place = {text: row for row, text in enumerate(english)}
        own = torch.tensor([place[text] for text in pairs.english])
        nearest = cosines.argmax(1).eq(own).float().mean()
        return {
            "validation_cosine": float(cosines.gather(1, own[:, None]).mean()),
            "validation_nearest": float(nearest),
        }

    def _embed_english(self, english: list[str], progress: ProgressCallback | None) -> tuple[Tensor, Tensor]:
        """(U, C) embeddings of the different English texts, and (N,) the row of each text."""
        unique = list(dict.fromkeys(english))
        row = {text: place for place, text in enumerate(unique)}
        text = self.parts.text.to(self.device)
        made = []
        for start in range(0, len(unique), TARGETS_AT_ONCE):
            made.append(text.embed(unique[start : start + TARGETS_AT_ONCE], truncate=True).float().cpu())
            if progress is not None and start:
                progress(self.step, self.total_steps, f"reading the English texts: {start:,} of {len(unique):,}")
        return torch.cat(made), torch.tensor([row[one] for one in english])

    # --- files ---------------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if not all(bool(torch.isfinite(value).all()) for value in self.tower.parameters()):
            raise DataError(f"the weights are no longer finite at step {self.step}: lower the learning rate (--lr)")
        values = {
            "config": self.options.model_dump(), "data": self.data, "tower": self.tower.state_dict(),
            "optimizer": self.optimizer.state_dict(), "step": self.step, "metrics_bytes": self.log.journal.size(),
        }  # fmt: skip
        write_checkpoint(self.out / CHECKPOINT, values)

    def _restore(self) -> int:
        """Restore weights, optimizer and step; returns the length of metrics.jsonl at that step."""
        with reading_checkpoint(self.out / CHECKPOINT) as state:
            longer = ["epochs", "max_steps"] if self.options.schedule == "constant" else []
            check_same_settings(
                state["config"], self.options.model_dump(), self.out, ignore=["log_every", "save_every", *longer]
            )
            check_same_data(state["data"], self.data, self.out)
            self.tower.load_state_dict(state["tower"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = int(state["step"])
            return int(state["metrics_bytes"])

    def _write_tower(self, metrics: Record) -> None:
        options = self.options
        config = {
            "languages": list(options.read_languages), "templates": list(options.templates), "space": self.space,
            "settings": options.model_dump(mode="json"), "data": {"texts": self.count}, "steps": self.step,
        }  # fmt: skip
        save_text_tower(self.out, self.tower.eval(), self.tokenizer, config)
        write_atomically(self.out / "README.md", _card(self.parts.config.name, options, self.count, self.step, metrics))


def split_pairs(pairs: Pairs, options: TextTrainOptions) -> tuple[Pairs, Pairs | None]:
    """The pairs to learn from, and those held out; pairs with the same English stay together."""
    english = list(dict.fromkeys(pairs.english))
    count = round(options.validation_share * len(english))
    if not count:
        return pairs, None
    chosen = np.random.default_rng([options.seed, 1]).permutation(len(english))[:count]
    out = {english[i] for i in chosen}

    def part(held: bool) -> Pairs:
        kept = [pair for pair in zip(pairs.texts, pairs.english, strict=True) if (pair[1] in out) == held]
        return Pairs(tuple(text for text, _ in kept), tuple(one for _, one in kept))

    return part(False), part(True)


def batch_rows(step: int, count: int, options: TextTrainOptions) -> Tensor:
    """(B,) rows of a step: every epoch draws a new order of the texts; the last, smaller batch is left out."""
    epoch, place = divmod(step, count // options.batch_size)
    order = np.random.default_rng([options.seed, 2, epoch]).permutation(count)
    return torch.from_numpy(order[place * options.batch_size : (place + 1) * options.batch_size])


def _positions(encoder: Any) -> int:
    """Tokens that an encoder can read. Encoders that know a padding index (RoBERTa's) count positions from the one after it."""
    positions = int(getattr(encoder.config, "max_position_embeddings", 512))
    padding = getattr(getattr(encoder, "embeddings", None), "padding_idx", None)
    return positions if padding is None else positions - int(padding) - 1


def _card(model: str, options: TextTrainOptions, texts: int, steps: int, metrics: Record) -> str:
    rows = [("text space", model), ("encoder", options.encoder), ("texts", f"{texts:,}"), ("steps", f"{steps:,}")]
    rows += [
        (name, f"{value:.6g}") for name, value in metrics.items() if name == "loss" or name.startswith("validation")
    ]
    return f"""# A text tower for {language_names(options.read_languages)}

It takes the place of CLIP's text tower in front of psi, for the text space of {model} and for no other one. It was distilled
from pairs of sentences: `talk2dino segment IMAGES --model {model} --text FOLDER --prompts "..."`.

{markdown_table(("", "value"), rows)}
"""
