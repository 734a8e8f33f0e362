"""Tensors from and to weight files. Nothing in a file is executed, and values that no trained model has are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from talk2dino.errors import CheckpointError

Tensors = Mapping[str, Tensor]
#: Largest absolute value of a weight. In float16, which ends at 65504, a larger one overflows with an activation of 7.
LARGEST_WEIGHT = 1e4
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a .safetensors, or tensors of a pickled state dict (.pth, .pt, .bin).

    Pickled files are read with ``weights_only=True``, which refuses everything but tensors.

    Raises:
        CheckpointError: the file is missing, damaged or empty, or holds anything but tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"no weights file at {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch and safetensors raise half a dozen kinds
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"cannot read weights from {path}, which is damaged or holds more than tensors ({reason}); accepted: a "
            ".safetensors file, or a .pth file with a state dict of tensors"
        ) from None
    if isinstance(state, dict) and set(state) == {"model"} and isinstance(state["model"], dict):
        state = state["model"]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} does not hold a state dict (names and tensors)")
    return state, {}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of :func:`read_weights`."""
    return read_weights(path)[0]


def safetensors_bytes(tensors: Tensors, metadata: Mapping[str, str]) -> bytes:
    """The content of a .safetensors file: equal tensors and metadata give equal bytes.

    safetensors itself writes metadata in an order that changes from call to call, so the header is written here.
    """
    from safetensors.torch import save

    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    end = 8 + int.from_bytes(content[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(content[8:end])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + content[end:]


def below(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, without the prefix."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def bad_values(tensor: Tensor) -> str | None:
    """Why a tensor cannot be a trained weight, or None: its dtype, NaN or infinity, or values above 1e4.

    One pass over the values, at the speed of memory.
    """
    if tensor.dtype not in _FLOATS:
        return f"has the dtype {str(tensor.dtype).removeprefix('torch.')}, expected a floating-point dtype"
    if not tensor.numel():
        return "is empty"
    low, high = (float(value) for value in torch.aminmax(tensor.detach()))
    if low >= -LARGEST_WEIGHT and high <= LARGEST_WEIGHT:
        return None
    largest = max(abs(low), abs(high))
    return f"has values up to {largest:.3g}" if largest < float("inf") else "holds NaN or infinity"


def check_values(tensors: Tensors, what: str) -> None:
    """Refuse weights with :func:`bad_values`.

    Raises:
        CheckpointError: names the first tensors that are refused.
    """
    refuse_values([f"{name} {problem}" for name, tensor in tensors.items() if (problem := bad_values(tensor))], what)


def refuse_values(problems: list[str], what: str) -> None:
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{what} holds weights that cannot come from training: {'; '.join(problems[:3])}{more} (finite "
            f"floating-point values up to {LARGEST_WEIGHT:g} are accepted); download or train the model again"
        )
