"""psi: the projection from the text encoder's space into the vision model's. The only thing that is trained."""

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

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "sigmoid": torch.sigmoid,
}


class Projection(nn.Module):
    """psi(t) = W_b^T tanh(W_a^T t + b_a) + b_b, from C text dimensions to D vision dimensions.

    Args:
        text_dim: C, the width of what comes in.
        vision_dim: D, the width of what goes out.
        hidden: widths of the layers in between; the default is one of width D (published), ``()`` is a linear projection.
        activation: one of :data:`ACTIVATIONS`, applied between layers, not after the last.

    Source: Talk2DINO (arXiv 2411.19331), section on the projection.
    """

    def __init__(
        self, text_dim: int, vision_dim: int, *, hidden: tuple[int, ...] | None = None, activation: str = "tanh"
    ) -> None:
        super().__init__()
        hidden = (vision_dim,) if hidden is None else tuple(hidden)
        if any(not isinstance(width, int) or width < 1 for width in (text_dim, vision_dim, *hidden)):
            raise InputError(
                f"widths of a projection must be positive integers; got {text_dim} -> {hidden} -> {vision_dim}"
            )
        if activation not in ACTIVATIONS:
            raise InputError(f"unknown activation '{activation}'; one of: {', '.join(ACTIVATIONS)}")
        self.text_dim, self.vision_dim, self.hidden, self.activation = text_dim, vision_dim, hidden, activation
        widths = (text_dim, *hidden, vision_dim)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, text: Tensor) -> Tensor:
        """(..., C) -> (..., D), not normalised."""
        if text.shape[-1] != self.text_dim:
            raise ShapeError(f"this projection takes (..., {self.text_dim}); got {tuple(text.shape)}")
        first, *others = self.layers
        mapped = first(text)
        for layer in others:
            mapped = layer(ACTIVATIONS[self.activation](mapped))
        return mapped

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, fit for JSON."""
        return {
            "text_dim": self.text_dim,
            "vision_dim": self.vision_dim,
            "hidden": list(self.hidden),
            "activation": self.activation,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Projection:
        known = {"text_dim", "vision_dim", "hidden", "activation"}
        if set(config) != known:
            raise CheckpointError(f"a projection's configuration has the keys {sorted(known)}; got {sorted(config)}")
        return cls(
            config["text_dim"], config["vision_dim"], hidden=tuple(config["hidden"]), activation=config["activation"]
        )


def to_published(projection: Projection) -> dict[str, Tensor]:
    """The state dict in the published naming: ``linear_layer.*`` first, ``hidden_layers.N.*`` after it."""
    return {
        _published_name(number, kind): getattr(layer, kind).detach().cpu().clone()
        for number, layer in enumerate(projection.layers)
        for kind in ("weight", "bias")
    }


def from_published(state: Mapping[str, Tensor], *, activation: str = "tanh") -> Projection:
    """Build psi from a published state dict; sizes are read from the tensors.

    Args:
        state: ``linear_layer.{weight,bias}`` (D, C), (D,) and ``hidden_layers.0.{weight,bias}`` (D, D), (D,);
            older files call the second layer ``linear_layer2``.

    Raises:
        CheckpointError: with the missing and unexpected keys, or the shapes that do not fit together.
    """
    renamed = {re.sub(r"^linear_layer2\.", "hidden_layers.0.", key): value for key, value in state.items()}
    if len(renamed) != len(state):
        raise CheckpointError("the projection has both 'linear_layer2' and 'hidden_layers.0'; one of them is expected")
    deeper = {int(found[1]) + 1 for key in renamed if (found := re.match(r"hidden_layers\.(\d+)\.", key))}
    depth = 1 + max(deeper, default=0)
    names = [_published_name(number, kind) for number in range(depth) for kind in ("weight", "bias")]
    _check_keys(renamed, names)
    ours = {
        f"layers.{number}.{kind}": renamed[_published_name(number, kind)]
        for number in range(depth)
        for kind in ("weight", "bias")
    }
    return _build(ours, depth, activation)


def save_projection(projection: Projection, path: str | Path, *, extra: Mapping[str, str] | None = None) -> Path:
    """Write psi as safetensors with its configuration in the file's metadata; whole or not at all."""
    from safetensors.torch import save

    from talk2dino.io.atomic import write_atomically

    path = Path(path)
    tensors = {name: value.detach().cpu().contiguous() for name, value in projection.state_dict().items()}
    write_atomically(path, save(tensors, {**(extra or {}), "projection": json.dumps(projection.config())}))
    return path


def load_projection(path: str | Path) -> Projection:
    """Read psi from our ``projection.safetensors`` (or a folder with one) or a published file (.pth or .safetensors).

    Pickled files are read with ``weights_only=True``: nothing in them is run.

    Raises:
        CheckpointError: no such file, damaged, or keys and shapes that are not a projection's.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "projection.safetensors"
    if not path.is_file():
        raise CheckpointError(
            f"no projection at {path}: give a .safetensors or .pth file, or a folder with projection.safetensors"
        )
    config: dict[str, Any] | None = None
    if path.suffix == ".safetensors":
        state, metadata = _read_safetensors(path)
        config = json.loads(metadata["projection"]) if "projection" in metadata else None
    else:
        state = _read_pickle(path)
    try:
        if not any(key.startswith("layers.") for key in state):
            return from_published(state)
        if config is None:
            depth = len({key.split(".")[1] for key in state})
            _check_keys(state, [f"layers.{n}.{kind}" for n in range(depth) for kind in ("weight", "bias")])
            return _build(state, depth, "tanh")
        projection = Projection.from_config(config)
        _check_keys(state, list(projection.state_dict()))
        return _fill(projection, state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _published_name(number: int, kind: str) -> str:
    return f"linear_layer.{kind}" if number == 0 else f"hidden_layers.{number - 1}.{kind}"


def _check_keys(state: Mapping[str, Tensor], expected: list[str]) -> None:
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    if missing or unexpected:
        raise CheckpointError(
            f"not a projection's weights: missing keys {missing[:8] or 'none'}, unexpected keys {unexpected[:8] or 'none'}"
        )


def _build(state: Mapping[str, Tensor], depth: int, activation: str) -> Projection:
    weights = [state[f"layers.{number}.weight"] for number in range(depth)]
    flat = [tuple(weight.shape) for weight in weights if weight.ndim != 2]
    if flat:
        raise CheckpointError(f"a projection's weights are (out, in) matrices; got shapes {flat}")
    hidden = tuple(weight.shape[0] for weight in weights[:-1])
    projection = Projection(weights[0].shape[1], weights[-1].shape[0], hidden=hidden, activation=activation)
    return _fill(projection, state)


def _fill(projection: Projection, state: Mapping[str, Tensor]) -> Projection:
    wrong = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(value.shape)}"
        for name, value in projection.state_dict().items()
        if state[name].shape != value.shape
    ]
    if wrong:
        raise CheckpointError(f"shapes do not fit a projection: {'; '.join(wrong)}")
    projection.load_state_dict({name: state[name].float() for name in projection.state_dict()})
    return projection


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file ({error})") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for a damaged or unsafe file
        raise CheckpointError(f"{path} is damaged, or holds more than tensors, which is refused") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} is not a state dict of tensors")
    return state
