"""What runs the vision model: torch itself, torch.compile, OpenVINO or ONNX Runtime, each with the same outputs.

An engine is a function from normalised (B, 3, H, W) pixels to a :class:`talk2dino.models.vision.VisionOutput`. The
parts of a picture's way before and after it do not know which one is at work.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from talk2dino.errors import InputError
from talk2dino.models.fused import fuse
from talk2dino.models.vision import VisionModel, VisionOutput

ENGINES = ("torch", "compile", "openvino", "onnx")
#: Those that use the model as it is; the others export it.
IN_TORCH = ("torch", "compile")

Engine = Callable[[Tensor], VisionOutput]


def check_engine_name(name: str) -> None:
    """Refuse what is no engine.

    Raises:
        InputError: with what is accepted.
    """
    if name not in ENGINES:
        near = difflib.get_close_matches(name, ENGINES, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise InputError(f"unknown engine {name!r}{hint}; accepted: {', '.join(ENGINES)}")


def check_engine(name: str, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse what cannot work, before a model is loaded.

    Raises:
        InputError: an unknown engine, or one that does not run on this device or in this dtype.
        MissingExtraError: its library is not installed.
    """
    check_engine_name(name)
    if name in ("openvino", "onnx"):
        if device.type != "cpu":
            raise InputError(
                f"the engine {name} runs on the CPU here; give device='cpu', or engine='torch' on {device}"
            )
        from talk2dino.engines.runtimes import need

        for package in ("onnx", "onnxscript", "onnxruntime"):
            need(package, "onnx" if name == "onnx" else "openvino", f"the engine {name}")
    if name == "openvino":
        from talk2dino.engines.runtimes import need

        need("openvino", "openvino", "the engine openvino")
        if dtype == torch.float16:
            raise InputError("the engine openvino computes in float32 or bfloat16 on a CPU; got float16")
    if name == "onnx" and dtype != torch.float32:
        raise InputError(
            f"the engine onnx computes in float32; got {str(dtype).removeprefix('torch.')}: give dtype='float32'"
        )


def make_engine(
    name: str,
    vision: VisionModel,
    *,
    device: torch.device,
    dtype: torch.dtype,
    cache_dir: Path | None = None,
) -> Engine:
    """The engine of that name for a vision model.

    Args:
        name: one of :data:`ENGINES`.
        vision: the model, on ``device``. "compile" uses it as it is, of ``dtype``; "torch" too, but for bfloat16 on a CPU
            (:mod:`talk2dino.models.fused`). The others export it once as ONNX, which is kept in the cache folder by what
            its weights are: give it in float32, whatever ``dtype`` is, so that one file serves every dtype and nothing
            is rounded twice.
        cache_dir: instead of ``talk2dino.io.cache.cache_folder()``.

    Raises:
        InputError, MissingExtraError: see :func:`check_engine`. OutputError: the export does not give what torch gives.
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
