"""Weight files: nothing is executed, bad values are refused, equal content gives equal bytes."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from talk2dino.errors import CheckpointError
from talk2dino.models.loading import load_parts
from talk2dino.models.projection import Projection, load_projection, save_projection, to_original
from talk2dino.models.weights import bad_values, check_values, read_tensors, safetensors_bytes


class Malicious:
    """Creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("read", [load_projection, read_tensors, lambda path: load_parts(path.parent)])
def test_a_malicious_pickle_is_not_run(tmp_path, read):
    victim = tmp_path / "was-run"
    folder = tmp_path / "model"
    folder.mkdir()
    torch.save({"linear_layer.weight": torch.zeros(2, 3), "extra": Malicious(victim)}, folder / "psi.pth")
    with pytest.raises(CheckpointError, match="damaged or holds more than tensors"):
        read(folder / "psi.pth")
    assert not victim.exists()
    torch.load(folder / "psi.pth", weights_only=False)  # the attack works where pickles are trusted
    assert victim.exists()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "holds NaN or infinity"),
        (float("inf"), "holds NaN or infinity"),
        (-float("inf"), "holds NaN or infinity"),
        (1e30, "values up to 1e+30"),
        (-1e30, "values up to 1e+30"),
        (11_000, "values up to 1.1e+04"),
        (-9_999, None),
    ],
)
def test_values_that_no_training_gives(value, reason):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        tensor = torch.randn(7, 5, dtype=dtype)
        tensor[3, 2] = value
        found = bad_values(tensor)
        assert found is None if reason is None else reason[:15] in found


def test_dtypes_that_are_not_weights():
    for dtype in (torch.int64, torch.int8, torch.bool, torch.complex64):
        expected = f"has the dtype {str(dtype)[6:]}, expected a floating-point dtype"
        assert bad_values(torch.ones(3, dtype=dtype)) == expected
    assert bad_values(torch.empty(0, 3)) == "is empty"


DAMAGE = {
    "nan": lambda tensor: tensor.fill_(float("nan")),
    "huge": lambda tensor: tensor * 1e30,
    "integer": lambda tensor: (tensor * 100).to(torch.int32),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    "name", ["model.blocks.0.attn.qkv.weight", "clip_model.ln_final.weight", "proj.hidden_layers.0.bias"]
)
def test_whole_models_with_bad_weights_are_refused(reference, tmp_path, name, damage):
    tensors = {key: value.clone() for key, value in reference("tiny_reg")[0].items()}
    tensors[name] = DAMAGE[damage](tensors[name].float())
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds weights that cannot come from training") as error:
        load_parts(tmp_path)
    assert name.split(".", 1)[1] in str(error.value)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("naming", ["ours", "original", "pickled"])
def test_projections_with_bad_weights_are_refused(tmp_path, naming, damage):
    psi = Projection(5, 7)
    path = tmp_path / ("psi.pth" if naming == "pickled" else "psi.safetensors")
    if naming == "ours":
        save_projection(psi, path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        state = load_file(path)
    else:
        state, metadata = to_original(psi), None
    first = next(iter(state))
    state[first] = DAMAGE[damage](state[first])
    if naming == "pickled":
        torch.save(state, path)
    else:
        save_file(state, path, metadata)
    with pytest.raises(CheckpointError, match=f"the projection holds weights .*{first}"):
        load_projection(path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("clip_model.token_embedding.weight", lambda tensor: tensor[1:]),
        ("clip_model.positional_embedding", lambda tensor: tensor[1:]),
        ("clip_model.text_projection", lambda tensor: tensor[:, 1:]),
        ("model.patch_embed.proj.weight", lambda tensor: tensor[1:]),
        ("model.pos_embed", lambda tensor: tensor[:, 1:]),
        ("model.pos_embed", lambda tensor: tensor[:, :0]),
        ("model.blocks.0.attn.qkv.weight", lambda tensor: tensor[1:]),
        ("model.blocks.0.attn.qkv.weight", lambda tensor: torch.cat([tensor, tensor[:1]])),
        ("model.blocks.0.attn.qkv.weight", lambda tensor: tensor[:2]),
        ("model.cls_token", lambda tensor: tensor[0, 0, 0]),
        ("clip_model.token_embedding.weight", lambda tensor: tensor[0]),
        ("proj.linear_layer.weight", lambda tensor: tensor[1:]),
        ("proj.linear_layer.weight", lambda tensor: tensor[:, 1:]),
    ],
)
def test_a_tensor_with_a_row_cut_off_is_refused(reference, tmp_path, name, change):
    tensors = {key: value.clone() for key, value in reference("tiny_reg")[0].items()}
    tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError):
        load_parts(tmp_path)


def test_equal_projections_give_equal_files(tmp_path):
    torch.manual_seed(0)
    psi = Projection(5, 7)
    extra = {name: name for name in ("strategy", "side", "step", "loss", "seed")}
    contents = set()
    for number, order in enumerate([list(extra), list(extra)[::-1]] * 10):
        path = save_projection(psi, tmp_path / f"{number}.safetensors", extra={name: extra[name] for name in order})
        contents.add(path.read_bytes())
    assert len(contents) == 1
    with safe_open(path, framework="pt") as file:
        assert set(file.metadata()) == {*extra, "projection"}
    assert torch.equal(load_file(path)["layers.1.weight"], psi.layers[1].weight)


@pytest.mark.parametrize("metadata", [{}, {"b": "é 球", "a": "x" * 77}])
def test_safetensors_reads_what_is_written(tmp_path, metadata):
    tensors = {"b": torch.randn(3, 5), "a": torch.arange(7).half(), "c": torch.zeros(0, 3)}
    (tmp_path / "t.safetensors").write_bytes(safetensors_bytes(tensors, metadata))
    again = load_file(tmp_path / "t.safetensors")
    assert all(torch.equal(again[name], value) for name, value in tensors.items())
    with safe_open(tmp_path / "t.safetensors", framework="pt") as file:
        assert (file.metadata() or {}) == metadata
    for length in range(9):  # tensors lie at multiples of 8 bytes, whatever the length of the metadata
        content = safetensors_bytes(tensors, {"x": "y" * length})
        assert int.from_bytes(content[:8], "little") % 8 == 0


def test_a_damaged_file_says_what_the_library_says(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"\x10")
    with pytest.raises(
        CheckpointError, match=r"damaged or holds more than tensors \(.*[Hh]eader.*\); accepted: a \.safet"
    ):
        read_tensors(tmp_path / "w.safetensors")


def test_of_many_bad_weights_three_are_named():
    tensors = {f"layer.{n}": torch.full((3,), 1e30 if n else 1.0) for n in range(6)}
    with pytest.raises(CheckpointError, match=r"layer\.1 has .*; layer\.2 has .*; layer\.3 has [^;]* and 2 more \("):
        check_values(tensors, "the projection")
    del tensors["layer.4"], tensors["layer.5"]
    with pytest.raises(CheckpointError, match=r"layer\.3 has values up to 1e\+30 \(finite"):
        check_values(tensors, "the projection")
    check_values({"a": torch.tensor([-1e4, 1e4])}, "the projection")


def test_state_dicts_that_are_wrapped_or_absent(tmp_path):
    """Training code saves {"model": state}; anything else beside the tensors is refused."""
    state = {"a": torch.arange(3.0), "b": torch.ones(2)}
    torch.save({"model": state}, tmp_path / "w.pth")
    assert torch.equal(read_tensors(tmp_path / "w.pth")["a"], state["a"])
    for other in ({"model": state, "epoch": 3}, {"model": {}}, {**state, "epoch": 3}, {"other": state}):
        torch.save(other, tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match="does not hold a state dict"):
            read_tensors(tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="no weights file at"):
        read_tensors(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="no weights file at"):
        read_tensors(tmp_path)
