"""Where a run stands: checkpoints that it can go on from, and metrics.jsonl, which never holds a step twice."""

from __future__ import annotations

import io
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from talk2dino.errors import CheckpointError, DataError, MissingExtraError, OutputError
from talk2dino.io.atomic import atomic_path
from talk2dino.models.projection import save_projection
from talk2dino.training.aligner import Aligner
from talk2dino.training.options import FitConfig

CHECKPOINT = "checkpoint.pt"


@dataclass
class Progress:
    """What changes from step to step, besides weights and optimizer.

    Attributes:
        step: steps done.
        best: lowest validation loss so far, and at_best the step it was at.
        head_counts: (M,) how often each head was chosen.
        metrics_bytes: length of metrics.jsonl at the last checkpoint; what a killed run wrote after it is cut off.
        losses, losses_of: sum of the losses since the last record, and of how many steps.
    """

    step: int = 0
    best: float = float("inf")
    at_best: int = 0
    head_counts: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    metrics_bytes: int = 0
    losses: float = 0.0
    losses_of: int = 0

    def add_loss(self, loss: float) -> None:
        self.losses, self.losses_of = self.losses + loss, self.losses_of + 1

    def take_loss(self) -> float:
        """The mean loss since the last record; begins anew."""
        mean = self.losses / max(1, self.losses_of)
        self.losses, self.losses_of = 0.0, 0
        return mean


def save_checkpoint(
    folder: Path,
    aligner: Aligner,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    counts: Tensor,
    data: str = "",
) -> None:
    """Write checkpoint.pt and the projection as it is now; each whole or not at all. ``data`` names what it learns from."""
    state = {
        "config": aligner.config.model_dump(),
        "data": data,
        "aligner": aligner.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": progress.step,
        "best": progress.best,
        "at_best": progress.at_best,
        "head_counts": counts,
        "metrics_bytes": progress.metrics_bytes,
        "losses": (progress.losses, progress.losses_of),
    }
    content = io.BytesIO()  # torch's own file writing hides what the operating system says, such as a full disk
    torch.save(state, content)
    with atomic_path(folder / CHECKPOINT) as temporary, open(temporary, "wb") as file:
        file.write(content.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    save_projections(folder, aligner, progress.step)


def save_projections(folder: Path, aligner: Aligner, step: int) -> None:
    """``projection.safetensors`` (text side) and ``vision_projection.safetensors`` (vision side), those that there are."""
    extra = {"strategy": aligner.config.strategy, "side": aligner.config.side, "step": str(step)}
    if aligner.text_projection is not None:
        save_projection(aligner.text_projection, folder / "projection.safetensors", extra=extra)
    if aligner.vision_projection is not None:
        save_projection(aligner.vision_projection, folder / "vision_projection.safetensors", extra=extra)


def load_checkpoint(
    folder: Path, aligner: Aligner, optimizer: torch.optim.Optimizer, data: str = ""
) -> Progress | None:
    """Take up a run where its last checkpoint left it; None when there is none.

    Raises:
        DataError: the run in this folder was started with other settings (which), or on other data.
        CheckpointError: the file is damaged.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        before, now = FitConfig(**state["config"]).model_dump(), aligner.config.model_dump()
        different = [name for name in now if now[name] != before[name] and not _may_change(name, now)]
        if different:
            changes = ", ".join(f"{name} {before[name]} -> {now[name]}" for name in different)
            raise DataError(
                f"{folder} holds a run with other settings ({changes}): give the same ones to go on, or another folder"
            )
        if state.get("data", data) != data:
            raise DataError(
                f"{folder} holds a run on other data (features or held-out pictures that are not these): give the same "
                "store to go on, or another folder"
            )
        aligner.load_state_dict(state["aligner"])
        optimizer.load_state_dict(state["optimizer"])
        known = (state[name] for name in ("step", "best", "at_best", "head_counts", "metrics_bytes"))
        return Progress(*known, *state.get("losses", (0.0, 0)))
    except DataError:
        raise
    except Exception as error:  # torch raises half a dozen kinds for a damaged file
        raise CheckpointError(f"{path} is damaged; remove it to start this run anew ({error})") from error


def _may_change(name: str, config: dict[str, Any]) -> bool:
    """A run may be made longer or report more often; with a cosine schedule its length is part of it."""
    if name in ("epochs", "max_steps"):
        return config["schedule"] == "constant"
    return name in ("log_every", "save_every")


def finite_or_none(record: dict[str, Any]) -> dict[str, Any]:
    """A record as JSON can hold it: None for what is not finite."""
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in record.items()}


class MetricsLog:
    """metrics.jsonl, a line a record, flushed at once; TensorBoard besides when asked for."""

    def __init__(self, folder: Path, length: int, *, tensorboard: bool = False) -> None:
        self.path = folder / "metrics.jsonl"
        try:
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed by close()
            self._file.truncate(min(length, self._file.seek(0, os.SEEK_END)))
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}") from error
        self._board = need_tensorboard()(str(folder / "tensorboard")) if tensorboard else None

    def write(self, record: dict[str, Any]) -> None:
        try:
            self._file.write((json.dumps(record, allow_nan=False) + "\n").encode())
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}") from error
        if self._board is not None:
            for name, value in record.items():
                if isinstance(value, (int, float)) and name != "step":
                    self._board.add_scalar(name, value, record["step"])

    def length(self) -> int:
        """Bytes written so far, safely on disk."""
        os.fsync(self._file.fileno())
        return self._file.seek(0, os.SEEK_END)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def need_tensorboard() -> Any:
    """TensorBoard's writer.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError.of("tensorboard", "log", "writing TensorBoard logs") from None
    return SummaryWriter
