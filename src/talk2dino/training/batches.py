"""Which captions make up step s, and their features. All of it follows from the seed and s."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from talk2dino.errors import DataError, InputError
from talk2dino.features.store import FeatureStore
from talk2dino.stages.heads import feature_of
from talk2dino.training.options import FitConfig
from talk2dino.training.processes import Processes


@dataclass(frozen=True)
class Batch:
    """images (b, M, D) or (b, D) and captions (b, C), float32; image_ids (b,); noise (b,) for "sampled" alone."""

    images: Tensor
    captions: Tensor
    image_ids: Tensor
    noise: Tensor | None = None


class Batches:
    """Step s -> its batch. Each epoch is a new order of the captions; the incomplete last batch is left out.

    The buffers that a batch lives in are used again by the next one.
    """

    def __init__(
        self, store: FeatureStore, config: FitConfig, device: torch.device, processes: Processes | None = None
    ) -> None:
        self.store, self.config, self.device = store, config, device
        self.processes = processes or Processes()
        if config.batch_size > store.num_captions:
            raise DataError(
                f"a batch of {config.batch_size} captions cannot be drawn from {store.num_captions}: choose a batch "
                "size of at most that"
            )
        if config.batch_size % self.processes.count:
            raise InputError(
                f"a batch of {config.batch_size} does not divide over {self.processes.count} processes evenly"
            )
        self.feature = feature_of(config.strategy)
        self.steps_per_epoch = store.num_captions // config.batch_size
        self.total_steps = config.max_steps or config.epochs * self.steps_per_epoch
        self._size = config.batch_size // self.processes.count
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))
        self._raw = {name: self._buffer(name, store.dtype(name)) for name in (self.feature, "captions")}
        self._ready = {name: self._buffer(name, torch.float32) for name in self._raw}

    def _buffer(self, name: str, dtype: torch.dtype) -> Tensor:
        pinned = self.device.type == "cuda"
        return torch.empty((self._size, *self.store.shape(name)), dtype=dtype, pin_memory=pinned)

    def rows(self, step: int) -> Tensor:
        """(B,) caption rows of a step, of all processes together; ascending, since order does not matter inside."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            order = np.random.default_rng([self.config.seed, 2, epoch]).permutation(self.store.num_captions)
            self._order = (epoch, torch.from_numpy(order))
        first = place * self.config.batch_size
        return self.store.rows[self._order[1][first : first + self.config.batch_size].sort().values]

    def __getitem__(self, step: int) -> Batch:
        rows = self.rows(step)
        mine = slice(self.processes.rank * self._size, (self.processes.rank + 1) * self._size)
        rows = rows[mine]
        image_ids = self.store.caption_image[rows]
        noise = None
        if self.config.strategy == "sampled":
            drawn = np.random.default_rng([self.config.seed, 3, step]).random(self.config.batch_size, np.float32)
            noise = torch.from_numpy(drawn)[mine].to(self.device)
        return Batch(
            images=self._read(self.feature, image_ids),
            captions=self._read("captions", rows),
            image_ids=image_ids.to(self.device),
            noise=noise,
        )

    def _read(self, name: str, rows: Tensor) -> Tensor:
        raw = self.store.gather(name, rows, self._raw[name])
        if self.device.type != "cpu":
            return raw.to(self.device).float()
        return self._ready[name].copy_(raw)
