"""Whole-model checkpoints and backbones: round trips, strictness, original names, names of models, config.json."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from talk2dino.errors import CheckpointError, ModelNotFoundError
from talk2dino.models.catalog import CATALOG
from talk2dino.models.checkpoint import heads_for, vision_from_original, vision_to_original
from talk2dino.models.keymaps import HUB_IMAGE
from talk2dino.models.layouts import dump
from talk2dino.models.loading import HubOptions, load_parts
from talk2dino.models.saving import save_model, whole_model_tensors
from talk2dino.models.vision import VisionModel
from talk2dino.models.vit import VisionTransformer, dinov2, dinov2_registers, dinov3, randomise
from talk2dino.models.weights import below, read_tensors
from talk2dino.segmenter import Segmenter


@pytest.fixture
def folder(reference, tmp_path):
    """The golden whole-model checkpoint in a folder, without a config.json."""
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


CHANGES = {
    "missing: blocks.1.norm1.bias": lambda tensors: tensors.pop("model.blocks.1.norm1.bias"),
    "unexpected: blocks.0.extra": lambda tensors: tensors.update({"model.blocks.0.extra": torch.zeros(3)}),
    "wrong shape: norm.weight (5,) where (128,)": lambda tensors: tensors.update({"model.norm.weight": torch.zeros(5)}),
    "wrong shape: ln_final.weight (63,) where (64,)": lambda tensors: tensors.update(
        {"clip_model.ln_final.weight": torch.zeros(63)}
    ),
}


@pytest.mark.parametrize("expected", [*([name] for name in CHANGES), list(CHANGES)[:2]])
def test_missing_unexpected_and_misshapen_tensors_are_named(folder, expected):
    path, tensors = folder
    for change in expected:
        CHANGES[change](tensors)
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        load_parts(path)
    assert all(change in str(error.value) for change in expected)


@pytest.mark.parametrize(
    ("backbone", "what"),
    [
        (dinov2(64, 1, 1, 128, grid=3), "DINOv2 without registers, width 64, depth 1"),
        (dinov2_registers(64, 1, 1, 128, grid=3, registers=4), "DINOv2 with registers, width 64, depth 1"),
        (dinov3(64, 1, 1, 128), "DINOv3, width 64, depth 1"),
    ],
)
def test_a_message_names_the_kind_of_model(backbone, what):
    tower = VisionTransformer(backbone)
    randomise(tower)
    tensors = vision_to_original(VisionModel(tower))
    with pytest.raises(CheckpointError, match=f"the weights do not fit a? ?{what}: unexpected: more"):
        vision_from_original({**tensors, "more": torch.zeros(2)})


def test_a_file_without_the_tensors_that_give_the_sizes():
    with pytest.raises(
        CheckpointError, match=r"missing: blocks\.0\.mlp\.fc2\.weight.*\(no tensor of this kind was found\)"
    ):
        vision_from_original({})
    with pytest.raises(CheckpointError, match=r"missing: .*\(found: cls_token\)"):
        vision_from_original({"cls_token": torch.zeros(1, 1, 8)})
    for heads, found in ((3, "a width of 64 cannot be split into 3 heads;"), (0, "cannot be split into")):
        with pytest.raises(CheckpointError, match=found):
            heads_for(64, heads)
    with pytest.raises(CheckpointError, match="a width of 200 cannot be split into heads of width 64; set the number"):
        heads_for(200, None)
    assert (heads_for(128, None), heads_for(64, None), heads_for(100, 5)) == (2, 1, 5)


def test_truncated_and_foreign_files(folder):
    path, tensors = folder
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot read weights from"):
        load_parts(path)
    file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot read weights from"):
        load_parts(path)
    save_file({"encoder.weight": torch.zeros(2)}, file)
    with pytest.raises(CheckpointError, match=r"unexpected: encoder\.weight"):
        load_parts(path)
    save_file({**tensors, "encoder.weight": torch.zeros(2)}, file)
    with pytest.raises(CheckpointError, match=r"unexpected: encoder\.weight"):
        load_parts(path)
    save_file({name: value for name, value in tensors.items() if not name.startswith("clip_model.")}, file)
    with pytest.raises(CheckpointError, match=r"missing: clip_model\.\*"):
        load_parts(path)
    save_file(below(tensors, "proj."), file)
    with pytest.raises(CheckpointError, match="this is a projection: choose a model and add --projection"):
        load_parts(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must hold a JSON object"),
        ("[" * 100_000, "cannot read the model configuration"),
        ('{"a":' * 100_000, "cannot read the model configuration"),
        ("{", "cannot read the model configuration"),
        ("", "cannot read the model configuration"),
        ('{"format": "talk2dino", "format_version": 1}', "name: "),
        ('{"format": "talk2dino", "format_version": 99, "name": "x"}', "format version 99"),
        (
            '{"format": "talk2dino", "format_version": 1, "name": "x", "head": 2}',
            "unknown key 'head'; did you mean heads",
        ),
        ('{"format": "talk2dino", "format_version": 1, "name": "x", "heads": 0}', "heads: .*got 0"),
        (
            '{"format": "talk2dino", "format_version": 1, "name": "x", "heads": 5}',
            "width of 128 cannot be split into 5 heads",
        ),
        ('{"format": "talk2dino", "format_version": 1, "name": "x", "threshold": NaN}', "threshold: "),
        ('{"format": "talk2dino", "format_version": 1, "name": "x", "templates": ["x"]}', "template 'x'"),
        ('{"format": "talk2dino", "format_version": 1, "name": "x", "tokenizer": "../t.json"}', "tokenizer must be"),
        (
            '{"format": "talk2dino", "format_version": 1, "name": "x", "tokenizer": "absent.json"}',
            "cannot read a tokenizer",
        ),
        ('{"base_model": 7}', "base_model must be a model's name"),
    ],
)
def test_damaged_configurations_give_one_sentence(folder, content, message):
    path, _ = folder
    (path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_parts(path)


def test_a_folder_that_is_its_own_base_model(folder):
    path, _ = folder
    (path / "config.json").write_text(json.dumps({"base_model": str(path)}))
    with pytest.raises(CheckpointError, match=r"leads back to this folder|recursion"):
        load_parts(path)


def test_a_saved_model_without_its_configuration(tmp_path):
    """Without it, the tokenizer is taken to be CLIP's, whose texts are longer than what micro's text tower reads."""
    saved = save_model(load_parts("micro"), tmp_path / "saved")
    (saved / "config.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"positional_embedding has 32 rows.*check that .* config.json is beside it"
    ):
        load_parts(saved)


def test_configurations_of_0_1_0(folder):
    path, _ = folder
    values = {"format": "talk2dino", "format_version": 1, "name": "old", "mapping": "psi", "vision_mapping": None}
    (path / "config.json").write_text(json.dumps(values))
    assert load_parts(path).config.name == "old"


def test_parts_are_saved_like_a_segmenter(tmp_path):
    parts = load_parts("micro")
    saved = load_parts(save_model(parts, tmp_path / "saved"))
    assert whole_model_tensors(parts).keys() == whole_model_tensors(saved).keys()
    assert all(
        torch.equal(value, whole_model_tensors(saved)[name]) for name, value in whole_model_tensors(parts).items()
    )
    assert saved.config.templates == parts.config.templates
    assert saved.vision.num_heads == 6


def test_towers_of_clip_must_agree(tmp_path):
    tensors = whole_model_tensors(load_parts("micro"))
    saved = save_model(load_parts("micro"), tmp_path / "saved")
    tensors["clip_model.visual.proj"] = tensors["clip_model.visual.proj"][:, 1:].contiguous()
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(CheckpointError, match="CLIP's image tower has 191 dimensions, its text tower 192"):
        load_parts(saved)


@pytest.mark.parametrize(("width", "threshold"), [(1024, 0.54), (128, 0.55)])
def test_a_whole_model_without_a_configuration_takes_the_threshold_of_its_size(folder, width, threshold):
    path, tensors = folder
    backbone = VisionTransformer(dinov2(width, 1, 16, 4 * width, grid=3))
    randomise(backbone)
    vision = {f"model.{name}": value.bfloat16() for name, value in vision_to_original(VisionModel(backbone)).items()}
    save_file(
        vision | {f"clip_model.{n}": v for n, v in below(tensors, "clip_model.").items()}, path / "model.safetensors"
    )
    assert load_parts(path).config.threshold == threshold


def test_thresholds_follow_the_size_of_the_vision_model(hub):
    assert CATALOG["dinov2-reg-large"].threshold == CATALOG["vitl"].threshold == 0.54
    assert CATALOG["dinov2-reg-base"].threshold == CATALOG["vitb"].threshold == 0.55
    for spec in CATALOG.values():
        assert spec.threshold_source.startswith("not published") == (
            "v3" in spec.name or "dinov2-" in spec.name or spec.name == "freeda-vitl"
        ) or (spec.name in ("micro", "dinov2-reg-base", "dinov2-reg-large"))
    load, _ = hub
    assert load("dinov2-reg-large").config.threshold == 0.54
    assert load("dinov2-reg-base").config.threshold == 0.55


def test_projection_of_another_size(folder, tmp_path):
    path, _ = folder
    state = {"linear_layer.weight": torch.zeros(7, 5), "linear_layer.bias": torch.zeros(7)}
    torch.save(state, tmp_path / "psi.pth")
    with pytest.raises(
        CheckpointError, match=r"the text projection in .*psi.pth reads 5 dimensions, but the text model of"
    ):
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
    tensors = {name: value.clone() for name, value in vision_to_original(vision).items()}
    assert "storage_tokens" in tensors
    tensors["rope_embed.periods"] = torch.zeros(16)
    tensors["blocks.1.attn.qkv.bias_mask"] = torch.zeros(384)
    again = vision_from_original(tensors)
    pixels = torch.randn(1, 3, 32, 48)
    assert torch.allclose(again(pixels).attention, vision(pixels).attention, atol=1e-6)
    tensors["blocks.0.attn.qkv.bias"][128:256] = 1e30  # DINOv3's keys have no bias, whatever a file holds there
    assert torch.allclose(vision_from_original(tensors)(pixels).patches, vision(pixels).patches, atol=1e-6)


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


def test_a_repository_with_our_configuration_and_its_own_tokenizer(tmp_path):
    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--somebody--small"
    folder = save_model(load_parts("micro"), repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    hub = HubOptions(cache_dir=tmp_path, local_files_only=True)
    parts = load_parts("somebody/small", hub=hub)
    assert (parts.vision.num_heads, parts.text.tokenizer.vocabulary) == (
        6,
        load_parts("micro").text.tokenizer.vocabulary,
    )
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"heads": 6', '"heads": 0'))
    with pytest.raises(CheckpointError, match=r"config\.json.*heads: .*got 0"):
        load_parts("somebody/small", hub=hub)
    (folder / "config.json").write_text(config)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"tokenizer\.json of somebody/small is not in the local cache"):
        load_parts("somebody/small", hub=hub)


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

    large = tmp_path / "models--facebook--dinov2-with-registers-large"
    large.symlink_to(tmp_path / "models--facebook--dinov2-with-registers-base")

    def load(name="dinov2-reg-base", **options):
        hub = HubOptions(cache_dir=tmp_path, local_files_only=True)
        return load_parts(name, **{"projection": tmp_path / "psi.pth", "hub": hub} | options)

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


def test_a_backbone_needs_a_projection_except_for_extraction(hub):
    load, _ = hub
    with pytest.raises(ModelNotFoundError, match="add --projection FILE"):
        load(projection=None)
    parts = load(projection=None, needs_projection=False)
    assert parts.projection is None
    assert parts.vision.dim == 32


def test_a_backbone_serves_methods_without_a_projection(hub, tmp_path):
    load, _ = hub
    hub_options = {"cache_dir": tmp_path, "local_files_only": True, "device": "cpu", "dtype": "float32"}
    with pytest.raises(ModelNotFoundError, match="without a projection: add --projection FILE"):
        Segmenter.from_pretrained("dinov2-reg-base", **hub_options)
    image = np.random.default_rng(1).integers(0, 255, (47, 61, 3), dtype=np.uint8)
    dense = Segmenter.from_pretrained("dinov2-reg-base", method="clip-dense", size=64, **hub_options)
    assert dense.segment(image, ["cat", "dog"]).labels.shape == (47, 61)
    with pytest.raises(ModelNotFoundError, match="dinov2-reg-base has no projection, so talk2dino cannot compare"):
        dense.with_method("talk2dino").encode_text(["cat"])
    aligned = Segmenter(load(), device="cpu", dtype="float32", size=56)
    assert aligned.segment(image, ["cat", "dog"]).labels.shape == (47, 61)


def test_the_published_pair_of_freeda():
    spec = CATALOG["freeda-vitl"]
    assert (spec.repository, spec.text) == ("facebook/dinov2-large", "openai/clip-vit-large-patch14")
    assert (spec.vision_dim, spec.text_dim, spec.patch_size) == (1024, 768, 14)


def test_a_backbone_with_bad_weights_is_refused(hub):
    load, folders = hub
    file = folders["facebook/dinov2-with-registers-base"] / "model.safetensors"
    tensors = load_file(file)
    tensors["encoder.layer.0.mlp.fc1.bias"][3] = 1e30
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"facebook/.* cannot come from training: .*fc1.bias has values up to 1e\+30"
    ):
        load()


def test_dense_clip_with_a_backbone_of_the_hub(hub, tmp_path):
    """Its image tower comes from the repository of the text tower, and is loaded when it is asked for."""
    load, folders = hub
    parts = load()
    assert parts.clip_vision is None
    segmenter = Segmenter(parts, dtype="float32", device="cpu")
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    found = segmenter.with_method("clip-dense", size=64).segment(picture, ["cat", "dog"])
    assert found.labels.shape == (40, 60)
    own = CLIPModel.from_pretrained(folders["openai/clip-vit-base-patch16"]).vision_model
    tower = {f"vision_model.{name}": value for name, value in own.state_dict().items()}
    dumped = dump(segmenter.clip_vision, HUB_IMAGE)
    assert all(torch.equal(dumped[name], value) for name, value in tower.items())
    again = Segmenter.from_pretrained(segmenter.save_pretrained(tmp_path / "saved"), dtype="float32", device="cpu")
    assert np.array_equal(
        again.with_method("clip-dense", size=64).segment(picture, ["cat", "dog"]).labels, found.labels
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
