"""Published layouts: round trips, strictness, both spellings of psi, DINOv3's original naming."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from talk2dino.errors import CheckpointError, ModelNotFoundError
from talk2dino.methods import wrap_segmenter
from talk2dino.models.checkpoint import below, read_tensors, vision_from_published, vision_to_published
from talk2dino.models.keymaps import HUB_IMAGE
from talk2dino.models.layouts import dump
from talk2dino.models.loading import HubOptions, load_parts
from talk2dino.models.vision import VisionModel
from talk2dino.models.vit import VisionTransformer, dinov3, randomise
from talk2dino.segmenter import Segmenter


@pytest.fixture
def folder(reference, tmp_path):
    """The golden whole model as a published folder, with heads told where they are not width / 64."""
    tensors, _ = reference("tiny_reg")
    tensors = {k: v.clone() for k, v in tensors.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path, tensors


def test_golden_survives_a_round_trip(folder):
    path, tensors = folder
    segmenter = Segmenter(load_parts(path), device="cpu", dtype="float32")
    saved = segmenter.save_pretrained(path / "own")
    again = read_tensors(saved / "model.safetensors")
    expected = {k: v for k, v in tensors.items() if not k.endswith("logit_scale") and not k.startswith("pamr.")}
    assert set(again) == set(expected)
    assert all(torch.equal(again[k], v.float()) for k, v in expected.items())
    assert Segmenter.from_pretrained(saved, dtype="float32").config.text_heads == 1


def test_missing_unexpected_and_misshapen_are_named(folder):
    path, tensors = folder
    wrong = dict(tensors)
    del wrong["model.blocks.1.norm1.bias"]
    wrong["model.blocks.0.extra"] = torch.zeros(3)
    wrong["model.norm.weight"] = torch.zeros(5)
    save_file(wrong, path / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        load_parts(path)
    for part in ("missing: blocks.1.norm1.bias", "unexpected: blocks.0.extra", "norm.weight (5,)", "(128,)"):
        assert part in str(error.value)


def test_truncated_foreign_and_unsafe_files(folder, tmp_path):
    path, _ = folder
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        load_parts(path)
    file.write_bytes(b"")
    with pytest.raises(CheckpointError):
        load_parts(path)
    save_file({"encoder.weight": torch.zeros(2)}, file)
    with pytest.raises(CheckpointError, match=r"encoder\.weight"):
        load_parts(path)
    torch.save({"a": print}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError):
        read_tensors(tmp_path / "evil.pth")


def test_projection_of_another_size(folder, tmp_path):
    path, _ = folder
    state = {"linear_layer.weight": torch.zeros(7, 5), "linear_layer.bias": torch.zeros(7)}
    torch.save(state, tmp_path / "psi.pth")
    with pytest.raises(CheckpointError, match="reads 5 text dimensions"):
        load_parts(path, projection=tmp_path / "psi.pth")
    with pytest.raises(CheckpointError, match="no projection"):
        load_parts(path, projection=tmp_path / "absent.pth")


def test_projection_in_both_spellings(folder, tmp_path):
    path, tensors = folder
    psi = below(tensors, "proj.")
    older = {k.replace("hidden_layers.0", "linear_layer2"): v for k, v in psi.items()}
    for name, state in (("new.pth", psi), ("old.pth", older)):
        torch.save(state, tmp_path / name)
        projection = load_parts(path, projection=tmp_path / name).projection
        assert torch.equal(projection.layers[1].weight, psi["hidden_layers.0.weight"].float())


def test_dinov3_original_naming():
    backbone = VisionTransformer(dinov3(128, 2, 2, 256))
    randomise(backbone)
    vision = VisionModel(backbone)
    for block in backbone.blocks:
        block.attn.qkv.bias[128:256] = 0
    tensors = vision_to_published(vision)
    assert "storage_tokens" in tensors
    tensors["rope_embed.periods"] = torch.zeros(16)
    tensors["blocks.1.attn.qkv.bias_mask"] = torch.zeros(384)
    again = vision_from_published(tensors)
    pixels = torch.randn(1, 3, 32, 48)
    assert torch.allclose(again(pixels).attention, vision(pixels).attention, atol=1e-6)
    tensors["blocks.0.attn.qkv.bias"][128:256] = 1  # DINOv3's keys have no bias, whatever a file holds there
    assert torch.allclose(vision_from_published(tensors)(pixels).patches, vision(pixels).patches, atol=1e-6)


def test_names(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFoundError, match="did you mean vitb"):
        load_parts("vit-b")
    with pytest.raises(ModelNotFoundError, match="micro"):
        load_parts("nobody/nothing-at-all")
    with pytest.raises(ModelNotFoundError, match="--projection"):
        load_parts("dinov2-base")
    with pytest.raises(CheckpointError, match="holds no model"):
        load_parts(tmp_path)


def test_published_model_from_the_cache(reference, tmp_path, monkeypatch):
    """The hub's own cache layout, found offline by name; a repository that is not there says what to do."""
    tensors, _ = reference("tiny_reg")
    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--lorebianchi98--Talk2DINO-ViTB"
    (repository / "snapshots" / revision).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    save_file({k: v.clone() for k, v in tensors.items()}, repository / "snapshots" / revision / "model.safetensors")
    for name in ("vitb", "auto", "lorebianchi98/Talk2DINO-ViTB"):
        segmenter = Segmenter.from_pretrained(name, cache_dir=tmp_path, local_files_only=True, dtype="float32")
        assert segmenter.config.source["repository"] == "lorebianchi98/Talk2DINO-ViTB"
        assert segmenter.vision.dim == 128
    with pytest.raises(ModelNotFoundError, match="micro"):
        Segmenter.from_pretrained("vitl", cache_dir=tmp_path, local_files_only=True)


@pytest.fixture
def hub(tmp_path):
    """The hub's cache with the two repositories of dinov2-reg-base, tiny and random; gives the folder of each."""
    revision = "0123456789abcdef0123456789abcdef01234567"
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    models = {
        "facebook/dinov2-with-registers-base": Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(**shape, image_size=56, patch_size=14)
        ),
        "openai/clip-vit-base-patch16": CLIPModel(
            CLIPConfig(text_config={**shape, "intermediate_size": 32}, vision_config={**shape, "intermediate_size": 32})
        ),
    }
    folders = {}
    for repository, model in models.items():
        place = tmp_path / f"models--{repository.replace('/', '--')}"
        folders[repository] = place / "snapshots" / revision
        model.save_pretrained(folders[repository])
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(revision)
    torch.save(
        {"linear_layer.weight": torch.randn(32, 512), "linear_layer.bias": torch.zeros(32)}, tmp_path / "psi.pth"
    )

    def load():
        options = HubOptions(cache_dir=tmp_path, local_files_only=True)
        return load_parts("dinov2-reg-base", projection=tmp_path / "psi.pth", hub=options)

    return load, folders


def test_backbones_from_the_cache_say_nothing_of_the_other_tower(hub, caplog, capfd):
    load, folders = hub
    with caplog.at_level("WARNING"):
        parts = load()
    vision, text = (load_file(folder / "model.safetensors") for folder in folders.values())
    assert torch.equal(parts.vision.backbone.norm.weight, vision["layernorm.weight"])
    assert torch.equal(parts.text.model.proj.weight, text["text_projection.weight"])
    clip = load_file(folders["openai/clip-vit-base-patch16"] / "model.safetensors")
    segmenter = Segmenter(parts, dtype="float32", device="cpu")
    assert segmenter.clip_vision is segmenter.clip_vision
    assert torch.equal(segmenter.clip_vision.proj.weight, clip["visual_projection.weight"])
    assert "UNEXPECTED" not in caplog.text + capfd.readouterr().err


def test_dense_clip_with_a_backbone_of_the_hub(hub, tmp_path):
    """Its image tower comes from the repository of the text tower, and is loaded when it is asked for."""
    load, folders = hub
    segmenter = Segmenter(load(), dtype="float32", device="cpu")
    assert segmenter._clip_vision is None
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    found = wrap_segmenter("clip-dense", segmenter, size=64).segment(picture, ["cat", "dog"])
    assert found.labels.shape == (40, 60)
    own = CLIPModel.from_pretrained(folders["openai/clip-vit-base-patch16"]).vision_model
    tower = {f"vision_model.{name}": value for name, value in own.state_dict().items()}
    dumped = dump(segmenter.clip_vision, HUB_IMAGE)
    assert all(torch.equal(dumped[name], value) for name, value in tower.items())
    again = Segmenter.from_pretrained(segmenter.save_pretrained(tmp_path / "saved"), dtype="float32", device="cpu")
    assert np.array_equal(
        wrap_segmenter("clip-dense", again, size=64).segment(picture, ["cat", "dog"]).labels, found.labels
    )


@pytest.mark.parametrize(
    ("repository", "name"),
    [
        ("facebook/dinov2-with-registers-base", "encoder.layer.0.mlp.fc1.weight"),
        ("facebook/dinov2-with-registers-base", "encoder.layer.0.attention.attention.key.weight"),
        ("openai/clip-vit-base-patch16", "text_projection.weight"),
    ],
)
@pytest.mark.parametrize("how", ["missing", "another shape"])
def test_a_weight_that_the_hub_does_not_have_is_not_made_up(hub, repository, name, how):
    load, folders = hub
    file = folders[repository] / "model.safetensors"
    tensors = load_file(file)
    weight = tensors.pop(name)
    if how == "another shape":
        tensors[name] = weight[:, :16].contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=f"{repository}: the weights do not fit config.json: .*{how.split()[-1]}: {name}"
    ):
        load()
