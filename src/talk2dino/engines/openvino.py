"""OpenVINO on the CPU, float32 or bfloat16."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from talk2dino.engines.export import OUTPUTS
from talk2dino.engines.runtimes import need
from talk2dino.models.vision import VisionOutput

#: Left to itself OpenVINO picks bfloat16 wherever the processor has it; which one it is, is the caller's to say.
PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OpenVinoEngine:
    """An exported graph in OpenVINO; may be called from several threads, each with a request of its own.

    Args:
        path: of the ONNX file. dtype: float32 or bfloat16.
        compiled_dir: where OpenVINO keeps what it made of the file, so that the next process loads that; None: nowhere.
    """

    def __init__(self, path: Path, dtype: torch.dtype, compiled_dir: Path | None = None) -> None:
        openvino = need("openvino", "openvino", "the engine openvino")
        core = openvino.Core()
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        self.dtype = dtype
        if compiled_dir is not None:  # OpenVINO goes on without a folder that is damaged or not writable
            # One folder per precision: OpenVINO 2026.4 takes parts of a float32 model for a bfloat16 one, and gives NaN.
            settings["CACHE_DIR"] = str(compiled_dir / PRECISIONS[dtype])
        self.model = core.compile_model(path, "CPU", settings)
        self.own = threading.local()

    def __call__(self, pixels: Tensor) -> VisionOutput:
        if not hasattr(self.own, "request"):
            self.own.request = self.model.create_infer_request()
        results = self.own.request.infer({"pixels": np.ascontiguousarray(pixels.float().cpu().numpy())})
        # The request keeps its buffers for the next picture.
        return VisionOutput(*(torch.from_numpy(np.array(results[name], dtype=np.float32)) for name in OUTPUTS))
