import json

import numpy as np
import pytest
import torch

from talk2dino.errors import DataError, OutputError
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
    told = [entry for image in images for entry in content["annotations"] if entry["image_id"] == image["id"]]
    embeddings = torch.stack([torch.as_tensor(entry["ann_feats"]).half() for entry in told])
    assert torch.equal(store.gather("captions", torch.arange(18)), embeddings)


def test_other_names_and_refusals(tmp_path):
    content = published(lambda t: t)
    for image in content["images"]:
        image["mine"] = image.pop("disentangled_self_attn")
        del image["dino_features"], image["avg_self_attn_out"]
    torch.save(content, tmp_path / "f.pth")
    with pytest.raises(
        DataError, match=r"features not found; an image has id, file_name, mine, an annotation .*ann_feats"
    ):
        convert_published(tmp_path / "f.pth", tmp_path / "out", model="vitb")
    with pytest.raises(DataError, match="no heads=yours"):
        convert_published(tmp_path / "f.pth", tmp_path / "out", model="vitb", names={"heads": "yours"})
    assert convert_published(tmp_path / "f.pth", tmp_path / "out", model="vitb", names={"heads": "mine"}).images == 11
    torch.save({"state": 1}, tmp_path / "g.pth")
    with pytest.raises(DataError, match="expected 'images' and 'annotations', got state"):
        convert_published(tmp_path / "g.pth", tmp_path / "g", model="vitb")
    (tmp_path / "h.pth").write_bytes(b"PK cut")
    with pytest.raises(DataError, match="damaged, or holds more than tensors"):
        convert_published(tmp_path / "h.pth", tmp_path / "h", model="vitb")
    with pytest.raises(DataError, match="no file"):
        convert_published(tmp_path / "none.pth", tmp_path / "h", model="vitb")
    torch.save({"images": [np.random.Generator], "annotations": [1]}, tmp_path / "evil.pth")
    with pytest.raises(DataError, match="which is refused"):
        convert_published(tmp_path / "evil.pth", tmp_path / "h", model="vitb")


def converted(tmp_path, content, **options):
    torch.save(content, tmp_path / "f.pth")
    return convert_published(tmp_path / "f.pth", tmp_path / "out", model="vitb", **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][3].pop("id"), r"'images' number 3 has no id .*; it has file_name, disentangled"),
        (
            lambda c: c.update(images=dict(enumerate(c["images"]))),
            r"'images' must be a list of entries, got dict; make it",
        ),
        (lambda c: c["annotations"].append(7), r"'annotations' number 20 has no image_id .*; it has int"),
        (
            lambda c: c["images"][2].update(disentangled_self_attn="text"),
            r"disentangled_self_attn of entry 12 is not an a",
        ),
    ],
)
def test_entries_that_are_none_are_refused(tmp_path, change, message):
    content = published(lambda t: t)
    change(content)
    with pytest.raises(DataError, match=message):
        converted(tmp_path, content)


def test_what_cannot_be_taken_over_is_counted(tmp_path):
    content = published(lambda t: t)
    images, annotations = content["images"], content["annotations"]
    images[1]["dino_features"] = torch.full((1, D), 1e6)
    annotations[2]["ann_feats"] = torch.full((C,), float("nan"))  # of picture 12
    annotations[3]["ann_feats"] = torch.zeros(C + 1)  # of picture 13
    del annotations[15]["ann_feats"]  # one of two of picture 14
    annotations.append({**annotations[5], "image_id": 999})
    annotations.append(annotations[5])
    images.append({**images[0], "file_name": "again.jpg"})
    told = []
    manifest = converted(tmp_path, content, records_per_shard=4, tell=told.append)
    assert (manifest.images, manifest.captions, manifest.skipped) == (8, 20 - 1 - 2 - 2 - 2, 4)
    lines = (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()
    assert [(line["key"], line["reason"][:26]) for line in map(json.loads, lines)] == [
        ("1.jpg", "cls not finite, or beyond "),
        ("2.jpg", "captions not finite, or be"),
        ("3.jpg", "captions of width 8, the f"),
        ("again.jpg", "a picture of this id was t"),
    ]
    assert told == [
        "1 annotations of pictures that are not in it are left out",
        "1 annotations without ann_feats are left out",
        "1 annotations listed twice are left out",
    ]


def test_another_file_of_the_same_name_is_refused(tmp_path):
    content = published(lambda t: t)
    converted(tmp_path, content, records_per_shard=4)
    content["images"][5]["disentangled_self_attn"] += 1
    with pytest.raises(DataError, match=r"made in another way \(source.content: "):
        converted(tmp_path, content, records_per_shard=4)


def test_a_file_that_is_converted_twice_at_once_is_refused(tmp_path):
    with folder_lock(tmp_path / "out"), pytest.raises(OutputError, match="another run is writing to"):
        converted(tmp_path, published(lambda t: t))
