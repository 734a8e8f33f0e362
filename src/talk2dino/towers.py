"""The frozen models of one checkpoint on one device, shared by every method that runs on them."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from torch import Tensor

from talk2dino.device import choose_device, choose_dtype
from talk2dino.engines import IN_TORCH, Engine, make_engine
from talk2dino.engines.forward import InParts
from talk2dino.errors import ModelNotFoundError, Talk2DinoError
from talk2dino.models.fingerprint import quick_checksum, quick_fingerprint, weights_checksum
from talk2dino.models.loading import Parts
from talk2dino.models.preprocess import normalise
from talk2dino.models.vision import VisionOutput
from talk2dino.models.vit import VisionTransformer
from talk2dino.words.understanding import Translator


class Towers:
    """Vision model, text model, psi and CLIP's image tower, placed on a device, with the engine that runs the vision model.

    Args:
        parts: the models, as :func:`talk2dino.models.loading.load_parts` returns them.
        device, dtype, engine: as in :class:`talk2dino.Segmenter`.
        translator: turns prompts that the text model does not read into English.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        engine: str = "torch",
        translator: Translator | None = None,
    ) -> None:
        self.name = parts.config.name
        self.languages, self.translator = parts.config.languages, translator
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device, engine=engine)
        self.config = parts.config
        self.engine = engine
        self.aligned = parts.aligned
        # Taken before the weights are rounded to the dtype.
        self._fingerprints = {"vision": quick_fingerprint(parts.vision)[:8]}
        # Engines that export the model read float32 weights, whatever they compute in.
        self.vision = parts.vision.to(self.device, self.dtype if engine in IN_TORCH else torch.float32)
        self.text = parts.text.to(self.device)
        self.projection, self.vision_projection = (
            None if psi is None else psi.to(self.device).eval().requires_grad_(False)
            for psi in (parts.projection, parts.vision_projection)
        )
        self.run_vision: Engine = InParts(make_engine(engine, self.vision, device=self.device, dtype=self.dtype))
        self._clip_vision, self._load_clip_vision = parts.clip_vision, parts.late_clip_vision

    @property
    def clip_vision(self) -> VisionTransformer | None:
        """CLIP's image tower in float32, loaded on first use; None if the checkpoint has none."""
        if self._clip_vision is None and self._load_clip_vision is not None:
            self._clip_vision = self._load_clip_vision()
        return self._clip_vision

    def need_clip_vision(self, method: str) -> VisionTransformer:
        """CLIP's image tower on the device.

        Raises:
            ModelNotFoundError: the checkpoint has none.
        """
        if self.clip_vision is None:
            raise ModelNotFoundError(
                f"{method} needs CLIP's image tower, which the model {self.name} does not include: use micro, a whole "
                "published model such as vitb, or a backbone such as dinov2-reg-base or freeda-vitl"
            )
        return self.clip_vision.to(self.device)

    def encode(self, pixels: Tensor) -> VisionOutput:
        """Run the vision model on (B, 3, H, W) RGB 0..255, H and W multiples of the patch size."""
        check_fork()
        return self.run_vision(normalise(pixels.to(self.device)))

    def fingerprint(self, names: Iterable[str]) -> str:
        """A short digest of the weights of the named towers: the same for the same checkpoint, whatever dtype it runs in."""
        names = list(names)
        for name in names:
            if name not in self._fingerprints:
                tower = getattr(self, name)
                self._fingerprints[name] = "" if tower is None else quick_fingerprint(tower)[:8]
        return "-".join(self._fingerprints[name] for name in names)

    def checksums(self, names: Iterable[str], *, quick: bool = False) -> dict[str, str]:
        """Checksums of every weight of the named towers: SHA-256 for records that last, or ``quick`` ones."""
        checksum = quick_checksum if quick else weights_checksum
        towers = {name: getattr(self, name) for name in names}
        return {name: checksum(tower) for name, tower in towers.items() if tower is not None}


# OpenMP's threads do not survive a fork: the child's first parallel operation would wait for them for ever.
_used = False
_forked_after_use = False


def check_fork() -> None:
    """Refuse to compute in a process that was forked from one that had computed.

    Raises:
        Talk2DinoError: says how to start workers.
    """
    global _used
    if _forked_after_use:
        raise Talk2DinoError(
            "this process was forked from one that had already run a model, and would hang: start workers with "
            "multiprocessing's 'spawn' method, or load the model in the workers only"
        )
    _used = True


def _after_fork() -> None:
    global _forked_after_use
    _forked_after_use = _used


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
