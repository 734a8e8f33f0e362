"""The Triton kernel of PAMR against the plain version: on a GPU where there is one, else in Triton's interpreter.

Triton comes with torch's CUDA builds; beside a CPU torch, ``pip install triton`` (1 GB) makes these tests run.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed; it comes with torch's CUDA builds"
)

COMPARE = """
import torch
from talk2dino.stages.kernels.pamr_gpu import refine_gpu
from talk2dino.stages.refine import neighbour_offsets, refine_plain

device = "cuda" if torch.cuda.is_available() else "cpu"
generator = torch.Generator().manual_seed(0)
for classes, height, width, iterations, dilations in CASES:
    masks = torch.rand(2, classes, height, width, generator=generator)
    pixels = torch.rand(2, 3, height, width, generator=generator) * 255
    result = refine_gpu(masks.to(device), pixels.to(device), neighbour_offsets(dilations), iterations).cpu()
    expected = refine_plain(masks, pixels, iterations=iterations, dilations=dilations)
    print(float((result - expected).abs().max()))
"""
CASES = [(1, 1, 1, 1, (1, 2)), (3, 5, 7, 3, (1, 2, 4, 8, 12, 24)), (11, 13, 17, 2, (1, 24)), (2, 1, 150, 2, (3,))]


def test_kernel_equals_plain():
    interpret = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    source = str(Path(__file__).parents[2] / "src")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPARE.replace("CASES", repr(CASES))],
        env={**os.environ, **interpret, "PYTHONPATH": source}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    differences = [float(line) for line in run.stdout.split()]
    assert len(differences) == len(CASES)
    assert max(differences) < 1e-5


def test_kernel_compiles_for_a_gpu_that_is_not_there():
    """To machine code, which needs no GPU: the types and shapes that a GPU asks for, which the interpreter does not."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from talk2dino.stages.kernels import pamr_gpu

    places = {"weights": "*fp32", "dy": "*i32", "dx": "*i32", "height": "i32", "width": "i32"}
    kernels = {
        pamr_gpu._affinities: ({"pixels": "*fp32", **places}, {"neighbours": 48, "count": 54, "per_program": 128}),
        pamr_gpu._update: (
            {"target": "*fp32", "source": "*fp32", "classes": "i32", **places},
            {"neighbours": 48, "per_program": 128, "lanes": 8},
        ),
    }
    for kernel, (types, constants) in kernels.items():
        signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
        compiled = triton.compile(ASTSource(kernel, signature, constexprs=constants), target=GPUTarget("cuda", 90, 32))
        assert len(compiled.asm["cubin"]) > 1000
