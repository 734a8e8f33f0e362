import io
import json
import tarfile

import pytest
import torch
from fakes import Malicious

from talk2dino.errors import DataError, InputError, OutputError, Talk2DinoWarning
from talk2dino.features.conversion import convert_published
from talk2dino.features.store import FeatureStore
from talk2dino.io.lock import folder_lock

M, D, C = 3, 5, 7


def published(wrap):
    generator = torch.Generator().manual_seed(0)
    images = [
        {
            "id": 10 + n,
            "file_name": f"{n}.jpg",
            "disentangled_self_attn": wrap(torch.randn(M, D, generator=generator)),
            "dino_features": wrap(torch.randn(1, D, generator=generator)),
            "avg_self_attn_out": wrap(torch.randn(D, generator=generator)),
        }
        for n in range(11)
    ]
    annotations = [
        {
            "id": n,
            "image_id": 10 + n % 11,
            "caption": f"text {n}",
            "ann_feats": wrap(torch.randn(C, generator=generator)),
        }
        for n in range(20)
    ]
    return {"images": images, "annotations": annotations}


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: t.half(), lambda t: t.numpy()])
def test_published_files_become_a_store(tmp_path, wrap):
    content = published(wrap)
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != 13]
    torch.save(content, tmp_path / "features.pth")
    manifest = convert_published(tmp_path / "features.pth", tmp_path / "out", model="vitb", records_per_shard=4)
    assert (manifest.images, manifest.captions, manifest.skipped) == (10, 18, 1)
    assert (manifest.num_heads, manifest.vision_dim, manifest.text_dim) == (M, D, C)
    store = FeatureStore.open(tmp_path / "out", verify=True)
    images = [image for image in content["images"] if image["id"] != 13]
    for row, image in enumerate(images):
        for name, key in (
            ("heads", "disentangled_self_attn"),
            ("cls", "dino_features"),
            ("average", "avg_self_attn_out"),
        ):
            expected = torch.as_tensor(image[key]).half().reshape(store.shape(name))
            assert torch.equal(store.gather(name, torch.tensor([row]))[0], expected)
    entries = [entry for image in images for entry in content["annotations"] if entry["image_id"] == image["id"]]
    embeddings = torch.stack([torch.as_tensor(entry["ann_feats"]).half() for entry in entries])
    assert torch.equal(store.gather("captions", torch.arange(18)), embeddings)


def test_other_names_and_refusals(tmp_path):
    content = published(lambda t: t)
    for image in content["images"]:
        image["mine"] = image.pop("disentangled_self_attn")
        del image["dino_features"], image["avg_self_attn_out"]
    torch.save(content, tmp_path / "f.pth")
    with pytest.raises(
        DataError,
        match=r"features not found; an image has id, file_name, mine; an annotation has .*ann_feats. Name the",
    ):
        convert_published(tmp_path / "f.pth", tmp_path / "out", model="vitb")
    with pytest.raises(DataError, match="no heads=yours"):
        convert_published(tmp_path / "f.pth", tmp_path / "out", model="vitb", names={"heads": "yours"})
    with pytest.raises(InputError, match=r"unknown feature 'head'; one of: heads, .*captions; did you mean heads"):
        convert_published(tmp_path / "f.pth", tmp_path / "out", model="vitb", names={"head": "mine"})
    assert convert_published(tmp_path / "f.pth", tmp_path / "out", model="vitb", names={"heads": "mine"}).images == 11
    torch.save({"state": 1}, tmp_path / "g.pth")
    with pytest.raises(
        DataError, match=r"expected a .pth with 'images' and 'annotations', or a webdataset .* got state"
    ):
        convert_published(tmp_path / "g.pth", tmp_path / "g", model="vitb")
    (tmp_path / "h.pth").write_bytes(b"PK cut")
    with pytest.raises(DataError, match=r"h.pth is damaged \("):
        convert_published(tmp_path / "h.pth", tmp_path / "h", model="vitb")
    with pytest.raises(DataError, match="there is no file"):
        convert_published(tmp_path / "none.pth", tmp_path / "h", model="vitb")


@pytest.mark.parametrize("kind", ["pth", "tar"])
def test_code_in_a_file_is_not_run(tmp_path, kind):
    content = {"images": [Malicious(tmp_path / "was run")], "annotations": [1], "image_id": 3}
    if kind == "pth":
        torch.save(content, tmp_path / "evil")
    else:
        write_tar(tmp_path / "evil", [content])
    with pytest.raises(DataError, match="objects other than tensors and numbers; they are not loaded"):
        convert_published(tmp_path / "evil", tmp_path / "out", model="vitb")
    assert not (tmp_path / "was run").exists()
    torch.load(io.BytesIO(pickled(content)), weights_only=False)
    assert (tmp_path / "was run").exists()


def pickled(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def write_tar(path, entries, ending="pth"):
    """As the published extraction writes a webdataset: one IMAGE_ID.pth per image, in the order of the images."""
    with tarfile.open(path, "w") as tar:
        for entry in entries:
            content = pickled(entry)
            info = tarfile.TarInfo(f"{entry['image_id']}.{ending}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_webdataset_tars_become_a_store(tmp_path):
    """Each .pth holds the fields of an image and of its one caption; 'id' is the caption's."""
    lists = published(lambda t: t)
    of_image = {entry["image_id"]: entry for entry in lists["annotations"]}
    merged = [of_image[image["id"]] | {k: v for k, v in image.items() if k != "id"} for image in lists["images"]]
    write_tar(tmp_path / "shard00000.tar", [entry | {"patch_tokens": torch.zeros(9, D)} for entry in merged])
    manifest = convert_published(tmp_path / "shard00000.tar", tmp_path / "of tar", model="vitb", records_per_shard=4)
    assert (manifest.images, manifest.captions, manifest.skipped) == (11, 11, 0)
    torch.save({**lists, "annotations": list(of_image.values())}, tmp_path / "lists.pth")
    convert_published(tmp_path / "lists.pth", tmp_path / "of lists", model="vitb", records_per_shard=4)
    ours, theirs = (FeatureStore.open(tmp_path / name) for name in ("of tar", "of lists"))
    for name in ("heads", "average", "cls", "captions"):
        rows = torch.arange(11)
        assert torch.equal(ours.gather(name, rows), theirs.gather(name, rows))
    lines = (tmp_path / "of tar" / "shard-00001.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"key": "4.jpg", "captions": ["text 15"]}


def test_tars_that_hold_no_features_are_named(tmp_path):
    write_tar(tmp_path / "images.tar", [{"image_id": 3}], ending="jpg")
    with pytest.raises(
        DataError, match=r"images.tar holds no .pth files with features; .*source of 'talk2dino extract'"
    ):
        convert_published(tmp_path / "images.tar", tmp_path / "out", model="vitb")
    write_tar(tmp_path / "odd.tar", [{"image_id": None}])
    with pytest.raises(DataError, match=r"odd.tar, None.pth has no image_id \(a number or a string\); got image_id"):
        convert_published(tmp_path / "odd.tar", tmp_path / "out", model="vitb")
    write_tar(tmp_path / "cut.tar", [{"image_id": 3, "x": torch.zeros(999)}])
    (tmp_path / "cut.tar").write_bytes((tmp_path / "cut.tar").read_bytes()[:2000])
    with pytest.raises(DataError, match=r"cut.tar is damaged"):
        convert_published(tmp_path / "cut.tar", tmp_path / "out", model="vitb")


def converted(tmp_path, content, **options):
    torch.save(content, tmp_path / "f.pth")
    return convert_published(tmp_path / "f.pth", tmp_path / "out", model="vitb", **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][3].pop("id"), r"entry 3 of 'images' has no id .*; got file_name, disentangled"),
        (lambda c: c.update(images=dict(enumerate(c["images"]))), r"'images' must be a list of entries; got dict"),
        (lambda c: c["annotations"].append(7), r"entry 20 of 'annotations' has no image_id .*; got int"),
        (
            lambda c: c["images"][2].update(disentangled_self_attn="text"),
            r"disentangled_self_attn of entry 12 is not an a",
        ),
    ],
)
def test_bad_entries_are_named(tmp_path, change, message):
    content = published(lambda t: t)
    change(content)
    with pytest.raises(DataError, match=message):
        converted(tmp_path, content)


def test_what_cannot_be_used_is_counted(tmp_path):
    content = published(lambda t: t)
    images, annotations = content["images"], content["annotations"]
    images[1]["dino_features"] = torch.full((1, D), 1e6)
    annotations[2]["ann_feats"] = torch.full((C,), float("nan"))  # of image 12
    annotations[3]["ann_feats"] = torch.zeros(C + 1)  # of image 13
    del annotations[15]["ann_feats"]  # one of the two of image 14
    annotations.append({**annotations[5], "image_id": 999})
    annotations.append(annotations[5])
    images.append({**images[0], "file_name": "again.jpg"})
    calls = []
    with pytest.warns(Talk2DinoWarning) as warned:
        manifest = converted(tmp_path, content, records_per_shard=4, progress=lambda *call: calls.append(call))
    assert (manifest.images, manifest.captions, manifest.skipped) == (8, 20 - 1 - 2 - 2 - 2, 4)
    lines = (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()
    assert [(line["key"], line["reason"][:26]) for line in map(json.loads, lines)] == [
        ("1.jpg", "cls not finite, or beyond "),
        ("2.jpg", "captions not finite, or be"),
        ("3.jpg", "captions of 8 dimensions, "),
        ("again.jpg", "an earlier image has the s"),
    ]
    file = tmp_path / "f.pth"
    assert [str(warning.message) for warning in warned] == [
        f"{file}: left out 1 annotation of images that are not in the file",
        f"{file}: left out 1 annotation without ann_feats",
        f"{file}: left out 1 annotation listed twice",
    ]
    assert calls == [(4, 12), (8, 12), (12, 12)]


def test_another_file_of_the_same_name_is_refused(tmp_path):
    content = published(lambda t: t)
    converted(tmp_path, content, records_per_shard=4)
    content["images"][5]["disentangled_self_attn"] += 1
    with pytest.raises(DataError, match=r"made with other settings \(source.content: "):
        converted(tmp_path, content, records_per_shard=4)


def test_two_conversions_into_one_folder_are_refused(tmp_path):
    with folder_lock(tmp_path / "out"), pytest.raises(OutputError, match="another run is writing to"):
        converted(tmp_path, published(lambda t: t))
