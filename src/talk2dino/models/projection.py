"""psi: the projection from the text tower's space into the vision tower's. The only network that is trained."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from talk2dino.errors import CheckpointError, InputError, ShapeError
from talk2dino.io.atomic import write_atomically
from talk2dino.models.weights import Tensors, check_values, read_weights, safetensors_bytes

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "sigmoid": torch.sigmoid,
}
#: File names in a folder written by ``train``, the current one first; 0.1.0 wrote the second.
TEXT_FILES = ("projection.safetensors", "mapping.safetensors")
VISION_FILES = ("vision_projection.safetensors", "vision_mapping.safetensors")


class Projection(nn.Module):
    """psi(t) = W_b^T tanh(W_a^T t + b_a) + b_b.

    Args:
        in_dim: width of the input: C for text embeddings, D on the vision side.
        out_dim: width of the output: D for text embeddings.
        hidden: widths of the layers in between; None: one of width ``out_dim`` (as published); ``()``: a linear projection.
        activation: one of :data:`ACTIVATIONS`, applied between layers, not after the last.

    Source: Talk2DINO (arXiv 2411.19331), section on the mapping.
    """

    def __init__(
        self, in_dim: int, out_dim: int, *, hidden: tuple[int, ...] | None = None, activation: str = "tanh"
    ) -> None:
        super().__init__()
        hidden = (out_dim,) if hidden is None else tuple(hidden)
        if any(not isinstance(width, int) or width < 1 for width in (in_dim, out_dim, *hidden)):
            raise InputError(f"widths of a projection must be positive integers; got {in_dim} -> {hidden} -> {out_dim}")
        if activation not in ACTIVATIONS:
            raise InputError(f"unknown activation {activation!r}; accepted: {', '.join(ACTIVATIONS)}")
        self.in_dim, self.out_dim, self.hidden, self.activation = in_dim, out_dim, hidden, activation
        widths = (in_dim, *hidden, out_dim)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, features: Tensor) -> Tensor:
        """(..., in_dim) -> (..., out_dim), not normalised."""
        if features.shape[-1] != self.in_dim:
            raise ShapeError(f"this projection takes (..., {self.in_dim}); got {tuple(features.shape)}")
        first, *others = self.layers
        projected = first(features)
        for layer in others:
            projected = layer(ACTIVATIONS[self.activation](projected))
        return projected

    def config(self) -> dict[str, Any]:
        """The constructor's arguments as JSON values."""
        return {
            "in_dim": self.in_dim,
            "out_dim": self.out_dim,
            "hidden": list(self.hidden),
            "activation": self.activation,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Projection:
        """Build from :meth:`config`; 0.1.0 called the widths ``text_dim`` and ``vision_dim``.

        Raises:
            CheckpointError: other keys or values.
        """
        old = {"text_dim": "in_dim", "vision_dim": "out_dim"}
        values = {old.get(name, name): value for name, value in config.items()}
        known = ["in_dim", "out_dim", "hidden", "activation"]
        if set(values) != set(known) or not isinstance(values["hidden"], list):
            raise CheckpointError(f"a projection's configuration has the keys {', '.join(known)}; got {dict(config)}")
        try:
            return cls(
                values["in_dim"], values["out_dim"], hidden=tuple(values["hidden"]), activation=values["activation"]
            )
        except (InputError, TypeError) as error:
            raise CheckpointError(f"the projection's configuration is damaged: {error}") from None


def to_original(projection: Projection) -> dict[str, Tensor]:
    """The state dict in the original naming: ``linear_layer.*`` first, then ``hidden_layers.N.*``."""
    return {
        name: value.detach().cpu().clone()
        for name, value in zip(_original_names(len(projection.layers)), _parameters(projection), strict=True)
    }


def from_original(state: Tensors, *, activation: str = "tanh") -> Projection:
    """Build psi from a state dict in the original naming; sizes are read from the tensors.

    Args:
        state: ``linear_layer.{weight,bias}`` (D, C), (D,) and ``hidden_layers.0.{weight,bias}`` (D, D), (D,);
            older files call the second layer ``linear_layer2``.

    Raises:
        CheckpointError: missing or unexpected keys, shapes that do not fit together, or bad values.
    """
    renamed = {re.sub(r"^linear_layer2\.", "hidden_layers.0.", key): value for key, value in state.items()}
    if len(renamed) != len(state):
        raise CheckpointError("the projection has both 'linear_layer2' and 'hidden_layers.0'; one of them is expected")
    return _build(renamed, _original_names(1 + _count(renamed, r"hidden_layers\.(\d+)\.")), activation)


def save_projection(projection: Projection, path: str | Path, *, extra: Mapping[str, str] | None = None) -> Path:
    """Write psi as safetensors with its configuration in the metadata, whole or not at all.

    Equal weights, configuration and ``extra`` give equal bytes.
    """
    path = Path(path)
    tensors = {name: value.detach().cpu() for name, value in projection.state_dict().items()}
    metadata = {**(extra or {}), "projection": json.dumps(projection.config())}
    write_atomically(path, safetensors_bytes(tensors, metadata))
    return path


def projection_file(folder: Path, names: tuple[str, ...] = TEXT_FILES) -> Path | None:
    """The projection in a folder written by ``train`` (:data:`TEXT_FILES` or :data:`VISION_FILES`), or None."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def load_projection(path: str | Path) -> Projection:
    """Read psi from ``projection.safetensors``, a folder with one, or a file in the original naming (.pth or .safetensors).

    Raises:
        CheckpointError: no such file, damaged, or keys, shapes or values that are not a projection's.
    """
    path = Path(path)
    if path.is_dir():
        path = projection_file(path) or path / TEXT_FILES[0]
    if not path.is_file():
        raise CheckpointError(
            f"no projection at {path}: give a .safetensors or .pth file, or a folder with {TEXT_FILES[0]}"
        )
    state, metadata = read_weights(path)
    recorded = metadata.get("projection", metadata.get("mapping"))
    try:
        if recorded is not None:
            projection = Projection.from_config(_read_recorded(recorded))
            return _fill(projection, state, list(projection.state_dict()))
        if any(key.startswith("layers.") for key in state):
            count = _count(state, r"layers\.(\d+)\.")
            return _build(state, [f"layers.{n}.{kind}" for n in range(count) for kind in ("weight", "bias")], "tanh")
        return from_original(state)
    except (CheckpointError, InputError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def _read_recorded(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise CheckpointError("the projection's configuration in the file's metadata is damaged")
    return values


def _original_names(count: int) -> list[str]:
    layers = ["linear_layer", *(f"hidden_layers.{number}" for number in range(count - 1))]
    return [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


def _parameters(projection: Projection) -> list[Tensor]:
    """Weight and bias of each layer, in order."""
    return [getattr(layer, kind) for layer in projection.layers for kind in ("weight", "bias")]


def _count(state: Tensors, pattern: str) -> int:
    numbers = [int(found[1]) + 1 for key in state if (found := re.match(pattern, key))]
    return min(max(numbers, default=0), len(state))


def _check_keys(state: Tensors, expected: list[str]) -> None:
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    if missing or unexpected:
        raise CheckpointError(
            f"not a projection's weights: missing keys {missing[:8] or 'none'}, unexpected keys {unexpected[:8] or 'none'}"
        )


def _build(state: Tensors, names: list[str], activation: str) -> Projection:
    """A projection whose widths are those of ``state``; ``names`` are weight and bias of each layer, in order."""
    _check_keys(state, names)
    weights = [state[name] for name in names[::2]]
    flat = [tuple(weight.shape) for weight in weights if weight.ndim != 2]
    if flat:
        raise CheckpointError(f"a projection's weights are (out, in) matrices; got shapes {flat}")
    hidden = tuple(weight.shape[0] for weight in weights[:-1])
    projection = Projection(weights[0].shape[1], weights[-1].shape[0], hidden=hidden, activation=activation)
    return _fill(projection, state, names)


def _fill(projection: Projection, state: Tensors, names: list[str]) -> Projection:
    _check_keys(state, names)
    parameters = _parameters(projection)
    wrong = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(value.shape)}"
        for name, value in zip(names, parameters, strict=True)
        if state[name].shape != value.shape
    ]
    if wrong:
        raise CheckpointError(f"shapes do not fit a projection: {'; '.join(wrong)}")
    check_values(state, "the projection")
    with torch.no_grad():
        for name, value in zip(names, parameters, strict=True):
            value.copy_(state[name])
    return projection
