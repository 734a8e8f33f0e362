"""OpenVINO on the CPU, float32 or bfloat16."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from talk2dino.engines.export import OUTPUTS
from talk2dino.models.vision import VisionOutput

#: Left to itself OpenVINO picks bfloat16 wherever the processor has it; which one it is, is the caller's to say.
PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OpenVinoEngine:
    """An exported graph in OpenVINO; may be called from several threads, each with a request of its own."""

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        import openvino

        core = openvino.Core()
        self.dtype = dtype
        self.model = core.compile_model(
            core.read_model(path),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            },
        )
        self.own = threading.local()

    def __call__(self, pixels: Tensor) -> VisionOutput:
        if not hasattr(self.own, "request"):
            self.own.request = self.model.create_infer_request()
        results = self.own.request.infer({"pixels": np.ascontiguousarray(pixels.float().cpu().numpy())})
        # The request keeps its buffers for the next picture.
        return VisionOutput(*(torch.from_numpy(np.array(results[name], dtype=np.float32)) for name in OUTPUTS))
