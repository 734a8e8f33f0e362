import json

import pytest
import torch
from safetensors.torch import save_file

from talk2dino.errors import CheckpointError, InputError, ShapeError
from talk2dino.models.fingerprint import same_weights, weights_in_halves
from talk2dino.models.loading import attach_projection, load_parts
from talk2dino.models.projection import Projection, from_published, load_projection, save_projection, to_published


def test_formula():
    torch.manual_seed(0)
    psi = Projection(5, 7)
    w_a, b_a = psi.layers[0].weight.T, psi.layers[0].bias
    w_b, b_b = psi.layers[1].weight.T, psi.layers[1].bias
    t = torch.randn(3, 2, 5)
    torch.testing.assert_close(psi(t), torch.tanh(t @ w_a + b_a) @ w_b + b_b)


def test_linear_and_deep():
    torch.manual_seed(0)
    linear = Projection(5, 7, hidden=())
    t = torch.randn(3, 5)
    torch.testing.assert_close(linear(t), t @ linear.layers[0].weight.T + linear.layers[0].bias)
    deep = Projection(5, 7, hidden=(11, 13), activation="relu")
    assert [tuple(layer.weight.shape) for layer in deep.layers] == [(11, 5), (13, 11), (7, 13)]
    expected = deep.layers[2](torch.relu(deep.layers[1](torch.relu(deep.layers[0](t)))))
    torch.testing.assert_close(deep(t), expected)


@pytest.mark.parametrize("hidden", [(), (7,), (11, 13)])
def test_published_round_trip(hidden):
    psi = Projection(5, 7, hidden=hidden)
    state = to_published(psi)
    assert list(state)[:2] == ["linear_layer.weight", "linear_layer.bias"]
    again = from_published(state)
    assert again.config() == psi.config()
    t = torch.randn(3, 5)
    assert torch.equal(again(t), psi(t))


def test_older_spelling():
    psi = Projection(5, 7)
    state = {key.replace("hidden_layers.0", "linear_layer2"): value for key, value in to_published(psi).items()}
    assert "linear_layer2.weight" in state
    t = torch.randn(3, 5)
    assert torch.equal(from_published(state)(t), psi(t))


def test_strict_errors():
    state = to_published(Projection(5, 7))
    del state["linear_layer.bias"]
    state["surprise"] = torch.zeros(2)
    with pytest.raises(CheckpointError, match=r"missing keys \['linear_layer.bias'\].*unexpected keys \['surprise'\]"):
        from_published(state)
    state = to_published(Projection(5, 7))
    state["hidden_layers.0.weight"] = torch.zeros(7, 6)
    with pytest.raises(CheckpointError, match=r"hidden_layers.0.weight|\(7, 6\), expected \(7, 7\)"):
        from_published(state)


def test_files(tmp_path):
    psi = Projection(5, 7, hidden=(3,), activation="gelu")
    path = save_projection(psi, tmp_path / "projection.safetensors", extra={"strategy": "max"})
    t = torch.randn(2, 5)
    for source in (path, tmp_path):
        again = load_projection(source)
        assert again.activation == "gelu"
        assert torch.equal(again(t), psi(t))
    published = Projection(5, 7)
    torch.save(to_published(published), tmp_path / "vitb.pth")
    save_file(to_published(published), tmp_path / "p.safetensors")
    assert torch.equal(load_projection(tmp_path / "vitb.pth")(t), published(t))
    assert torch.equal(load_projection(tmp_path / "p.safetensors")(t), published(t))


def test_bad_files(tmp_path):
    with pytest.raises(CheckpointError, match="no projection at"):
        load_projection(tmp_path / "none.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04nonsense")
    with pytest.raises(CheckpointError, match="damaged"):
        load_projection(tmp_path / "cut.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    with pytest.raises(CheckpointError, match="damaged"):
        load_projection(tmp_path / "cut.safetensors")
    save_file({"layers.0.weight": torch.zeros(2, 3)}, tmp_path / "half.safetensors")
    with pytest.raises(CheckpointError, match=r"half.safetensors: .*missing keys \['layers.0.bias'\]"):
        load_projection(tmp_path / "half.safetensors")
    config = json.dumps(Projection(5, 7).config())
    state = {key: value.contiguous() for key, value in Projection(5, 11).state_dict().items()}
    save_file(state, tmp_path / "other.safetensors", metadata={"projection": config})
    with pytest.raises(CheckpointError, match=r"layers.0.weight is \(11, 5\), expected \(7, 5\)"):
        load_projection(tmp_path / "other.safetensors")


def test_bad_arguments():
    with pytest.raises(InputError, match="unknown activation 'swish'"):
        Projection(5, 7, activation="swish")
    with pytest.raises(InputError, match="positive"):
        Projection(5, 0)
    with pytest.raises(ShapeError, match=r"\(\.\.\., 5\); got \(3, 7\)"):
        Projection(5, 7)(torch.zeros(3, 7))


def trained_folder(folder, parts, model):
    """What ``talk2dino train`` leaves, as far as loading reads it."""
    folder.mkdir()
    save_projection(parts.projection, folder / "projection.safetensors")
    (folder / "config.json").write_text(json.dumps({"format": "talk2dino-alignment-1", "model": model}))
    return folder


def test_a_projection_knows_the_weights_that_it_was_trained_for(tmp_path):
    parts = load_parts("micro")
    weights = {"vision": weights_in_halves(parts.vision), "text": weights_in_halves(parts.text.model)}
    folder = trained_folder(tmp_path / "run", parts, {"name": "micro", "weights": weights})
    for kind in (torch.float32, torch.float16, torch.bfloat16):  # the same weights in any dtype
        again = load_parts("micro")
        again.vision.to(kind)
        again.text.to(kind)
        attach_projection(again, folder)
    for tower in ("vision", "text"):
        other = load_parts("micro")
        next(getattr(other, tower).parameters()).data += 0.5
        with pytest.raises(CheckpointError, match=rf"features of micro, whose {tower} weights are not those of micro"):
            attach_projection(other, folder)
        attach_projection(other, folder / "projection.safetensors")  # a file says nothing of it
    attach_projection(other, trained_folder(tmp_path / "old", parts, {"name": "micro"}))


def test_halves_tell_weights_apart_in_any_dtype():
    torch.manual_seed(0)
    layer = torch.nn.Linear(5, 7)
    recorded = weights_in_halves(layer)
    for kind in (torch.float16, torch.bfloat16, torch.float32):
        other = torch.nn.Linear(5, 7)
        other.load_state_dict({name: value.to(kind) for name, value in layer.state_dict().items()})
        assert same_weights(other, recorded)
        assert same_weights(other.to(kind), recorded)
        other.bias.data[3] *= 1.01
        assert not same_weights(other, recorded)
