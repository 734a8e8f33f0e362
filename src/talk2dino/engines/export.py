"""The vision model as an ONNX file, compared with torch before it takes its place.

Input ``pixels`` (B, 3, H, W), float32, ImageNet-normalised RGB; outputs ``patches`` (B, h, w, D), ``attention``
(B, M, h, w) CLS-row logits and ``cls`` (B, D), as :class:`talk2dino.models.vision.VisionOutput` has them.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from talk2dino.engines.positions import make_dynamic
from talk2dino.engines.runtimes import need
from talk2dino.errors import InputError, OutputError
from talk2dino.io.atomic import atomic_path
from talk2dino.models.vision import VisionModel

OUTPUTS = ("patches", "attention", "cls")
#: An ONNX file is one protocol buffer, which ends at 2 GB.
LARGEST = 2_000_000_000
#: Largest difference that is accepted, relative to the largest magnitude of that output.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Exported:
    """What came out: the file, the sizes (height, width) that it was compared at, and the largest relative difference."""

    path: Path
    sizes: tuple[tuple[int, int], ...]
    difference: float


class _Tuple(nn.Module):
    """The outputs as a tuple, which is what a graph has."""

    def __init__(self, vision: VisionModel) -> None:
        super().__init__()
        self.vision = vision

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = self.vision(pixels)
        return out.patches, out.attention, out.cls


def export_onnx(vision: VisionModel, path: str | Path, *, size: tuple[int, int] | None = None) -> Exported:
    """Write the vision model as one ONNX file.

    Args:
        vision: on any device and of any dtype; the file holds float32.
        path: of the file; its place is taken only when the graph gives what torch gives.
        size: (height, width) of the pictures in pixels, multiples of the patch size; None: any size. The batch is free in
            both cases.

    Raises:
        InputError: a size off the patch grid, or weights beyond ONNX's 2 GB. MissingExtraError: onnx, onnxscript or
            onnxruntime is not installed. OutputError: the file cannot be written, or the exported graph differs from torch.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        need(package, "onnx", "ONNX export")
    patch = vision.patch_size
    if size is not None and (min(size) < patch or size[0] % patch or size[1] % patch):
        raise InputError(f"height and width must be multiples of the patch size {patch}; got {size[0]} x {size[1]}")
    weights = 4 * sum(p.numel() for p in vision.parameters())
    if weights > LARGEST:
        raise InputError(f"the weights take {weights / 1e9:.1f} GB in float32; an ONNX file holds at most 2 GB")
    model = copy.deepcopy(vision).to("cpu", torch.float32).eval()
    example = size or (5 * patch, 7 * patch)
    if size is None:
        make_dynamic(model.backbone)
        free: dict[int, Any] = {
            i: patch * torch.export.Dim(n, min=2, max=4096 // patch) for i, n in ((2, "rows"), (3, "columns"))
        }
    else:
        free = {}
    free[0] = torch.export.Dim("batch", min=1, max=4096)
    with atomic_path(path) as temporary:
        with torch.inference_mode(False), torch.no_grad(), _quietly():
            # A batch of one would be taken for a constant.
            program: Any = torch.onnx.export(
                _Tuple(model), (torch.zeros(2, 3, *example),), dynamo=True, dynamic_shapes={"pixels": free},
                input_names=["pixels"], output_names=list(OUTPUTS), verbose=False,
            )  # fmt: skip
            program.save(temporary, external_data=False)
        sizes = (size,) if size else ((5 * patch, 7 * patch), (16 * patch, 16 * patch), (9 * patch, 4 * patch))
        difference = compare(vision, temporary, sizes)
        if not difference <= TOLERANCE:
            raise OutputError(
                f"{path} was not written: the exported graph differs from torch by {difference:.1e} of the largest value "
                f"(accepted: {TOLERANCE:g})"
            )
    return Exported(Path(path), sizes, difference)


def compare(vision: VisionModel, path: Path, sizes: tuple[tuple[int, int], ...]) -> float:
    """Largest difference between the file in ONNX Runtime and the model in torch, relative to each output's largest value."""
    onnxruntime = need("onnxruntime", "onnx", "comparing an ONNX file")
    reference = copy.deepcopy(vision).to("cpu", torch.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = 0.0
    generator = torch.Generator().manual_seed(0)
    for batch, size in enumerate(sizes, start=1):
        pixels = torch.randn(batch, 3, *size, generator=generator)
        with torch.inference_mode():
            out = reference(pixels)
        for name, value in zip(OUTPUTS, session.run(list(OUTPUTS), {"pixels": pixels.numpy()}), strict=True):
            expected = getattr(out, name)
            off = (torch.from_numpy(value) - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
            worst = max(worst, off.item() if torch.isfinite(off) else float("inf"))
    return worst


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's remarks: on torchvision's operators, which are not used, and on its own deprecations."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
