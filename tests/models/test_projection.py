import json

import pytest
import torch
from safetensors.torch import save_file

from talk2dino.errors import CheckpointError, InputError, ShapeError
from talk2dino.models.fingerprint import weights_in_halves
from talk2dino.models.loading import load_parts
from talk2dino.models.parts import attach_projection
from talk2dino.models.projection import Projection, from_original, load_projection, save_projection, to_original

#: Fingerprints that 0.1.0 recorded for micro.
MICRO_VISION = {"float16": "a9790cdb2210d1da", "bfloat16": "09dd32c0c23d6703"}
MICRO_TEXT = {"float16": "8e6e566a2fcfe859", "bfloat16": "50816ef9fcc31412"}


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
def test_original_round_trip(hidden):
    psi = Projection(5, 7, hidden=hidden)
    state = to_original(psi)
    assert list(state)[:2] == ["linear_layer.weight", "linear_layer.bias"]
    again = from_original(state)
    assert again.config() == psi.config()
    t = torch.randn(3, 5)
    assert torch.equal(again(t), psi(t))


def test_older_spelling():
    psi = Projection(5, 7)
    state = {key.replace("hidden_layers.0", "linear_layer2"): value for key, value in to_original(psi).items()}
    assert "linear_layer2.weight" in state
    t = torch.randn(3, 5)
    assert torch.equal(from_original(state)(t), psi(t))


@pytest.mark.parametrize(("missing", "unexpected"), [(True, False), (False, True), (True, True)])
def test_missing_and_unexpected_keys_are_refused(missing, unexpected):
    state = to_original(Projection(5, 7))
    if missing:
        del state["linear_layer.bias"]
    if unexpected:
        state["surprise"] = torch.zeros(2)
    with pytest.raises(CheckpointError) as error:
        from_original(state)
    assert f"missing keys {['linear_layer.bias'] if missing else 'none'}" in str(error.value)
    assert f"unexpected keys {['surprise'] if unexpected else 'none'}" in str(error.value)


def test_shapes_must_fit_together():
    state = to_original(Projection(5, 7))
    state["hidden_layers.0.weight"] = torch.zeros(7, 6)
    with pytest.raises(CheckpointError, match=r"hidden_layers.0.weight is \(7, 6\), expected \(7, 7\)"):
        from_original(state)


def test_files(tmp_path):
    psi = Projection(5, 7, hidden=(3,), activation="gelu")
    path = save_projection(psi, tmp_path / "projection.safetensors", extra={"strategy": "max"})
    t = torch.randn(2, 5)
    for source in (path, tmp_path):
        again = load_projection(source)
        assert again.activation == "gelu"
        assert torch.equal(again(t), psi(t))
    other = Projection(5, 7)
    torch.save(to_original(other), tmp_path / "vitb.pth")
    save_file(to_original(other), tmp_path / "p.safetensors")
    assert torch.equal(load_projection(tmp_path / "vitb.pth")(t), other(t))
    assert torch.equal(load_projection(tmp_path / "p.safetensors")(t), other(t))


def test_bad_files(tmp_path):
    with pytest.raises(CheckpointError, match="no projection at"):
        load_projection(tmp_path / "none.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04nonsense")
    with pytest.raises(CheckpointError, match="damaged"):
        load_projection(tmp_path / "cut.pth")
    for content in ({"a.weight": 3}, {}, [torch.zeros(2)]):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(CheckpointError, match="does not hold a state dict"):
            load_projection(tmp_path / "other.pth")
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
    for damaged in ("{", "[]", "[" * 100_000, "{}", config.replace("tanh", "swish"), config.replace("[7]", "7")):
        save_file(state, tmp_path / "other.safetensors", metadata={"projection": damaged})
        with pytest.raises(CheckpointError, match="configuration"):
            load_projection(tmp_path / "other.safetensors")


def test_files_of_0_1_0(tmp_path):
    """Then, psi was called a mapping, in file names and metadata, and its sizes text_dim and vision_dim."""
    psi, vision_psi = Projection(192, 31, hidden=(13,), activation="gelu"), Projection(192, 31, hidden=())
    for name, projection in (("mapping", psi), ("vision_mapping", vision_psi)):
        sizes = {"text_dim": projection.in_dim, "vision_dim": projection.out_dim}
        config = {**sizes, "hidden": list(projection.hidden), "activation": projection.activation}
        metadata = {"mapping": json.dumps(config), "strategy": "max", "side": "both", "step": "3"}
        save_file(projection.state_dict(), tmp_path / f"{name}.safetensors", metadata)
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "format": "talk2dino-alignment-1",
                "base_model": "micro",
                "settings": {"side": "both"},
                "text_mapping": {"text_dim": 192, "vision_dim": 31, "hidden": [13], "activation": "gelu"},
                "vision_mapping": {"text_dim": 192, "vision_dim": 31, "hidden": [], "activation": "tanh"},
                "model": {"name": "micro", "weights": {"vision": MICRO_VISION, "text": MICRO_TEXT}},
            }
        )
    )
    t = torch.randn(3, 192)
    for parts in (load_parts(tmp_path), load_parts("micro", projection=tmp_path)):
        assert (parts.projection.in_dim, parts.projection.out_dim, parts.projection.hidden) == (192, 31, (13,))
        assert torch.equal(parts.projection(t), psi(t))
        assert torch.equal(parts.vision_projection(t), vision_psi(t))
    for source in (tmp_path, tmp_path / "mapping.safetensors"):
        assert torch.equal(load_projection(source)(t), psi(t))
    (tmp_path / "mapping.safetensors").unlink()  # trained on the vision side alone
    save_file(Projection(192, 192).state_dict(), tmp_path / "vision_mapping.safetensors")
    parts = load_parts("micro", projection=tmp_path)
    assert parts.projection is None
    assert parts.vision_projection.out_dim == 192


def test_bad_arguments():
    with pytest.raises(InputError, match="unknown activation 'swish'"):
        Projection(5, 7, activation="swish")
    with pytest.raises(InputError, match="positive"):
        Projection(5, 0)
    with pytest.raises(ShapeError, match=r"\(\.\.\., 5\); got \(3, 7\)"):
        Projection(5, 7)(torch.zeros(3, 7))


def trained_folder(folder, parts, model):
    """What ``talk2dino train`` writes, as far as loading reads it."""
    folder.mkdir()
    save_projection(parts.projection, folder / "projection.safetensors")
    (folder / "config.json").write_text(json.dumps({"format": "talk2dino-alignment-1", "model": model}))
    return folder


def test_a_projection_is_refused_with_other_weights(tmp_path):
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
        attach_projection(other, folder / "projection.safetensors")  # a file alone has no record
    attach_projection(other, trained_folder(tmp_path / "old", parts, {"name": "micro"}))
