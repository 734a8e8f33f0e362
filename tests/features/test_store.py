import json

import pytest
import torch
from safetensors.torch import save_file

from talk2dino.errors import DataError, InputError, ShapeError
from talk2dino.features.manifest import FORMAT, Manifest
from talk2dino.features.store import FeatureStore, map_safetensors

M, D, C = 3, 5, 7


def piece(images, seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        "captions": torch.randn(2 * images, C, generator=generator).half(),
        "heads": torch.randn(images, M, D, generator=generator).half(),
        "caption_image": torch.arange(images, dtype=torch.int32).repeat_interleave(2),
    }


def test_rows_of_many_pieces():
    pieces = [piece(n, n) for n in (2, 11, 5, 1)]
    store = FeatureStore(pieces)
    heads = torch.cat([p["heads"] for p in pieces])
    assert (store.num_images, store.num_captions, store.text_dim) == (19, 38, C)
    assert torch.equal(store.caption_image, torch.arange(19).repeat_interleave(2))
    many = [(7 * n) % 19 for n in range(80)]  # a call a shard; few rows are copied one by one
    for rows in ([0, 1, 2, 2, 17, 18], [18, 0, 5, 5, 13], [3], [], many, sorted(many)):
        rows = torch.tensor(rows, dtype=torch.long)
        assert torch.equal(store.gather("heads", rows), heads[rows])
        out = torch.empty(len(rows), M, D, dtype=torch.float16)
        assert torch.equal(store.gather("heads", rows, out), heads[rows])
        assert torch.equal(out, heads[rows])


def test_rows_of_one_piece():
    heads = piece(13, 0)["heads"]
    rows = torch.tensor([12, 0, 5, 5])
    assert torch.equal(FeatureStore([piece(13, 0)]).gather("heads", rows), heads[rows])


def test_memory_map_reads_what_was_written(tmp_path):
    tensors = piece(13, 0)
    save_file(tensors, tmp_path / "x.safetensors")
    mapped = map_safetensors(tmp_path / "x.safetensors")
    for name, value in tensors.items():
        assert torch.equal(mapped[name], value)
    for content in (b"", b"\x08", (1 << 40).to_bytes(8, "little") + b"{}", b"\x02\0\0\0\0\0\0\0[]"):
        (tmp_path / "bad.safetensors").write_bytes(content)
        with pytest.raises(DataError, match="damaged or not a feature shard"):
            map_safetensors(tmp_path / "bad.safetensors")


def test_split_is_by_image():
    store = FeatureStore([piece(31, 0)])
    train, held = store.split(0.2, seed=5)
    assert held.num_captions == 12
    assert train.num_captions == 50
    owners = [set(store.caption_image[view.rows].tolist()) for view in (train, held)]
    assert not owners[0] & owners[1]
    assert torch.equal(store.split(0.2, seed=5)[1].rows, held.rows)
    assert not torch.equal(store.split(0.2, seed=6)[1].rows, held.rows)
    with pytest.raises(InputError, match="between 0 and 1"):
        store.split(1.0, 0)


def test_refusals(tmp_path):
    with pytest.raises(DataError, match=r"is not a feature store: it has no manifest.json"):
        FeatureStore.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"cannot read the manifest .*remove the folder and extract again"):
        FeatureStore.open(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(DataError, match="not of the format"):
        FeatureStore.open(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": FORMAT, "shards": [], "part": [0, 1], "odd": 1}))
    with pytest.raises(DataError, match=r"is damaged \(.*odd"):
        FeatureStore.open(tmp_path)
    Manifest({}, {}, ["heads"], M, D, C).write(tmp_path)
    with pytest.raises(DataError, match="has no complete shard with images yet"):
        FeatureStore.open(tmp_path)
    heads, captions = torch.zeros(3, M, D), torch.zeros(5, C)
    with pytest.raises(InputError, match=r"must lie in 0\.\.2"):
        FeatureStore.from_tensors(heads, captions, torch.tensor([0, 1, 2, 3, 0]))
    with pytest.raises(ShapeError, match=r"got \(5, 7\) and \(4,\)"):
        FeatureStore.from_tensors(heads, captions, torch.zeros(4, dtype=torch.long))
    with pytest.raises(DataError, match="no feature 'cls', only: heads"):
        FeatureStore([piece(3, 0)]).shape("cls")
