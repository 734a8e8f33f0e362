"""Which captions make up step s, and their features. Both depend on the seed and on s alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from talk2dino.errors import DataError, InputError
from talk2dino.features.store import FeatureStore
from talk2dino.stages.heads import feature_of
from talk2dino.training.options import TrainOptions
from talk2dino.training.processes import Processes


@dataclass(frozen=True)
class Batch:
    """images (b, M, D) or (b, D), captions (b, C), both float32; image_ids (b,); noise (b,) for "sampled" only."""

    images: Tensor
    captions: Tensor
    image_ids: Tensor
    noise: Tensor | None = None


class Batches:
    """The batches of a run by step; ``batches[step]`` is this process's part.

    Every epoch draws a new order of the captions. The last, smaller batch of an epoch is left out unless
    ``keep_partial_batch`` is set. A batch lives in buffers that the next batch overwrites.

    Raises:
        DataError: the store has fewer captions than a batch. InputError: a batch cannot be divided over the processes.
    """

    def __init__(
        self, store: FeatureStore, options: TrainOptions, device: torch.device, processes: Processes | None = None
    ) -> None:
        self.store, self.options, self.device = store, options, device
        self.processes = processes or Processes()
        size, captions = options.batch_size, store.num_captions
        if size > captions:
            raise DataError(
                f"the batch size is {size}, but there are {captions} captions: choose a smaller --batch-size"
            )
        whole, rest = divmod(captions, size)
        for count in (size, rest if options.keep_partial_batch else 0):
            if count % self.processes.count:
                raise InputError(f"a batch of {count} captions cannot be divided over {self.processes.count} processes")
        self.feature = feature_of(options.strategy)
        self.steps_per_epoch = whole + (rest > 0 and options.keep_partial_batch)
        self.total_steps = options.max_steps or options.epochs * self.steps_per_epoch
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))
        self._raw = {name: self._buffer(name, store.dtype(name)) for name in (self.feature, "captions")}
        self._ready = {name: self._buffer(name, torch.float32) for name in self._raw}

    def _buffer(self, name: str, dtype: torch.dtype) -> Tensor:
        rows = self.options.batch_size // self.processes.count
        return torch.empty((rows, *self.store.shape(name)), dtype=dtype, pin_memory=self.device.type == "cuda")

    def rows(self, step: int) -> Tensor:
        """(B,) caption rows of a step for all processes; ascending, since the order within a batch does not matter."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            order = np.random.default_rng([self.options.seed, 2, epoch]).permutation(self.store.num_captions)
            self._order = (epoch, torch.from_numpy(order))
        first = place * self.options.batch_size
        return self.store.rows[self._order[1][first : first + self.options.batch_size].sort().values]

    def __getitem__(self, step: int) -> Batch:
        rows = self.rows(step)
        count = len(rows) // self.processes.count
        mine = slice(self.processes.rank * count, (self.processes.rank + 1) * count)
        noise = None
        if self.options.strategy == "sampled":
            drawn = np.random.default_rng([self.options.seed, 3, step]).random(len(rows), np.float32)
            noise = torch.from_numpy(drawn)[mine].to(self.device)
        rows = rows[mine]
        image_ids = self.store.caption_image[rows]
        images, captions = self._read(self.feature, image_ids), self._read("captions", rows)
        return Batch(images, captions, image_ids.to(self.device), noise)

    def _read(self, name: str, rows: Tensor) -> Tensor:
        raw = self.store.gather(name, rows, self._raw[name][: len(rows)])
        if self.device.type != "cpu":
            return raw.to(self.device).float()
        return self._ready[name][: len(rows)].copy_(raw)
