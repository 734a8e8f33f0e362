"""Saving and resuming a run: checkpoint.pt, the projection files, and metrics.jsonl, which never holds a step twice."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from talk2dino.errors import CheckpointError, DataError, MissingExtraError, Talk2DinoError
from talk2dino.io.atomic import atomic_path
from talk2dino.io.journal import Journal, Record
from talk2dino.io.settings import check_same_settings
from talk2dino.models.projection import save_projection
from talk2dino.training.aligner import Aligner
from talk2dino.training.options import TrainOptions

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

CHECKPOINT = "checkpoint.pt"
#: Fields of :class:`RunState` that have their own entry in a checkpoint.
STATE = ("step", "best", "at_best", "head_counts", "metrics_bytes")


@dataclass
class RunState:
    """Where a run stands, besides weights and optimizer."""

    step: int = 0  # finished steps
    best: float = float("inf")  # lowest validation loss so far
    at_best: int = 0  # its step
    head_counts: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))  # (M,) how often chosen
    metrics_bytes: int = 0  # of metrics.jsonl at the last checkpoint; what a killed run wrote after it is cut off
    losses: float = 0.0  # sum since the last record
    losses_of: int = 0  # steps in it


def save_checkpoint(
    folder: Path, aligner: Aligner, optimizer: torch.optim.Optimizer, state: RunState, data: str = ""
) -> None:
    """Write checkpoint.pt, with the fingerprint of the training ``data``, and the projections.

    Raises:
        OutputError: a file cannot be written.
    """
    values = {
        "config": aligner.options.model_dump(),
        "data": data,
        "aligner": aligner.state_dict(),
        "optimizer": optimizer.state_dict(),
        **{name: getattr(state, name) for name in STATE},
        "losses": (state.losses, state.losses_of),
    }
    write_checkpoint(folder / CHECKPOINT, values)
    save_projections(folder, aligner, state.step)


def write_checkpoint(path: Path, values: Mapping[str, Any]) -> None:
    """Write tensors and settings, whole or not at all, and wait until they are on the disk."""
    content = io.BytesIO()  # torch.save to a file hides the reason of the operating system, such as a full disk
    torch.save(dict(values), content)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(content.getbuffer())
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def reading_checkpoint(path: Path) -> Iterator[dict[str, Any]]:
    """The values of a checkpoint; runs no code in it. What goes wrong in the block counts as damage of the file.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        yield torch.load(path, map_location="cpu", weights_only=True)
    except Talk2DinoError:
        raise
    except Exception as error:  # torch raises many kinds of errors for a damaged or malicious file
        raise CheckpointError(
            f"{path} is damaged, or holds more than tensors and settings ({type(error).__name__}): remove it to start this run "
            "again"
        ) from None


def check_same_data(before: str, now: str, folder: Path) -> None:
    """Refuse to resume a run with other data than those it was started with (DataError)."""
    if before != now:
        raise DataError(
            f"{folder} holds a run on other data: use the same store and validation images to resume it, or choose "
            "another output folder"
        )


def save_projections(folder: Path, aligner: Aligner, step: int) -> None:
    """Write ``projection.safetensors`` (text side) and ``vision_projection.safetensors`` (vision side), if trained."""
    extra = {"strategy": aligner.options.strategy, "side": aligner.options.side, "step": str(step)}
    for prefix, projection in (("", aligner.text_projection), ("vision_", aligner.vision_projection)):
        if projection is not None:
            save_projection(projection, folder / f"{prefix}projection.safetensors", extra=extra)
            with contextlib.suppress(OSError):  # the same projection at an earlier step, as version 0.1.0 named it
                (folder / f"{prefix}mapping.safetensors").unlink()


def load_checkpoint(
    folder: Path, aligner: Aligner, optimizer: torch.optim.Optimizer, data: str = ""
) -> RunState | None:
    """Restore a run from its last checkpoint, those of version 0.1.0 included; None if there is none. Runs no code in it.

    Raises:
        InputError: the run in this folder has other settings; the differences are named.
        DataError: the run in this folder was trained on other data.
        CheckpointError: the file is damaged.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    with reading_checkpoint(path) as state:
        before, now = TrainOptions(**state["config"]).model_dump(), aligner.options.model_dump()
        # A run may be extended, unless its schedule depends on its length.
        longer = ["epochs", "max_steps"] if aligner.options.schedule == "constant" else []
        check_same_settings(before, now, folder, ignore=["log_every", "save_every", *longer])
        check_same_data(state.get("data", data), data, folder)
        names = {re.sub(r"^(text|vision)_mapping\.", r"\1_projection.", name): name for name in state["aligner"]}
        aligner.load_state_dict({name: state["aligner"][old] for name, old in names.items()})
        optimizer.load_state_dict(state["optimizer"])
        return RunState(*(state[name] for name in STATE), *state.get("losses", (0.0, 0)))


class MetricsLog:
    """metrics.jsonl, of which ``length`` bytes of an earlier run are kept, and TensorBoard logs if asked for."""

    def __init__(self, folder: Path, length: int, *, tensorboard: bool = False) -> None:
        self.journal = Journal(folder / "metrics.jsonl", sync=False, damaged="skip", length=length)
        self._board = need_tensorboard()(str(folder / "tensorboard")) if tensorboard else None

    def write(self, record: Record) -> None:
        self.journal.add(record)
        for name, value in record.items() if self._board is not None else ():
            if isinstance(value, (int, float)) and name != "step":
                self._board.add_scalar(name, value, record["step"])  # type: ignore[union-attr]

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def need_tensorboard() -> Callable[[str], SummaryWriter]:
    """TensorBoard's writer; raises MissingExtraError if it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError.of("tensorboard", "log", "writing TensorBoard logs") from None
    return SummaryWriter
