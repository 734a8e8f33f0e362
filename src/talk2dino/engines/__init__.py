"""What runs the vision model: torch itself, torch.compile, OpenVINO or ONNX Runtime, each with the same outputs.

An engine is a function from normalised (B, 3, H, W) pixels to a :class:`talk2dino.models.vision.VisionOutput`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from talk2dino.errors import InputError, suggestion
from talk2dino.models.fused import fuse
from talk2dino.models.vision import VisionModel, VisionOutput

ENGINES = ("torch", "compile", "openvino", "onnx")
#: Engines that run the torch model; the others export it.
IN_TORCH = ("torch", "compile")

Engine = Callable[[Tensor], VisionOutput]


def check_engine_name(name: str) -> None:
    """Check that an engine exists.

    Raises:
        InputError: lists the engines.
    """
    if name not in ENGINES:
        raise InputError(f"unknown engine {name!r}{suggestion(name, ENGINES)}; accepted: {', '.join(ENGINES)}")


def check_engine(name: str, device: torch.device, dtype: torch.dtype) -> None:
    """Check, before a model is loaded, that an engine runs on a device and in a dtype.

    Raises:
        InputError: an unknown engine, or one that does not run on this device or in this dtype.
        MissingExtraError: its library is not installed.
    """
    check_engine_name(name)
    if name in ("openvino", "onnx"):
        if device.type != "cpu":
            raise InputError(
                f"the engine {name} runs on the CPU only; got the device {device}. Choose the device cpu or the engine torch"
            )
        from talk2dino.engines.runtimes import need

        for package in ("onnx", "onnxscript", "onnxruntime"):
            need(package, "onnx" if name == "onnx" else "openvino", f"the engine {name}")
    if name == "openvino":
        from talk2dino.engines.runtimes import need

        need("openvino", "openvino", "the engine openvino")
        if dtype == torch.float16:
            raise InputError("the engine openvino computes in float32 or bfloat16; got float16")
    if name == "onnx" and dtype != torch.float32:
        raise InputError(
            f"the engine onnx computes in float32; got {str(dtype).removeprefix('torch.')}. Choose the dtype float32"
        )


def make_engine(
    name: str,
    vision: VisionModel,
    *,
    device: torch.device,
    dtype: torch.dtype,
    cache_dir: Path | None = None,
) -> Engine:
    """Make an engine for a vision model.

    Args:
        name: one of :data:`ENGINES`.
        vision: the model, on ``device``. "torch" and "compile" run it in ``dtype``; "torch" fuses its layers in bfloat16 on
            a CPU (:mod:`talk2dino.models.fused`). The other engines export it as ONNX, in a file of the cache folder that
            is named after the weights. Give them a float32 model whatever ``dtype`` is: one file then serves every dtype.
        cache_dir: used instead of ``talk2dino.io.cache.cache_folder()``.

    Raises:
        InputError, MissingExtraError: see :func:`check_engine`. OutputError: the exported model differs from torch.
    """
    check_engine(name, device, dtype)
    if name == "torch":
        return fuse(vision) or vision
    if name == "compile":
        from talk2dino.engines.compiled import CompiledEngine

        return CompiledEngine(vision)
    from talk2dino.engines.cache import exported_file

    with exported_file(vision, cache_dir) as kept:
        if name == "onnx":
            from talk2dino.engines.onnx import OnnxEngine

            return OnnxEngine(kept.path)
        from talk2dino.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(kept.path, dtype, kept.path.parent / "openvino" if kept.lasting else None)
