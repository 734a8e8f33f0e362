"""ONNX Runtime on the CPU, float32."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from talk2dino.engines.export import OUTPUTS
from talk2dino.engines.runtimes import need
from talk2dino.models.vision import VisionOutput


class OnnxEngine:
    """An exported graph in ONNX Runtime; may be called from several threads."""

    def __init__(self, path: Path) -> None:
        onnxruntime = need("onnxruntime", "onnx", "the engine onnx")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])

    def __call__(self, pixels: Tensor) -> VisionOutput:
        values = self.session.run(list(OUTPUTS), {"pixels": pixels.float().cpu().numpy()})
        return VisionOutput(*(torch.from_numpy(value) for value in values))
