import json

import pytest
import torch
from safetensors.torch import save_file

from talk2dino.errors import DataError, InputError, ShapeError
from talk2dino.features.manifest import FORMAT, Manifest, Shard, checksum
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


@pytest.mark.parametrize("count", [1, 2, 3])
def test_rows_of_a_few_pieces_in_any_number_and_order(count):
    """Rows are read in three ways: from a single piece, one by one, and piece by piece."""
    pieces = [piece(7 + n, n) for n in range(count)]
    store, heads = FeatureStore(pieces), torch.cat([p["heads"] for p in pieces])
    for number in (1, 15, 16, 31, 32, 47, 48, 200):
        rows = torch.arange(number) * 5 % len(heads)
        for order in (rows, rows.sort().values, rows.flip(0)):
            assert torch.equal(store.gather("heads", order), heads[order])


def test_a_store_of_one_image():
    store = FeatureStore.from_tensors(torch.ones(1, M, D), torch.zeros(3, C), torch.zeros(3, dtype=torch.long))
    assert (store.num_images, store.num_captions, store.num_view_images) == (1, 3, 1)
    empty = FeatureStore.from_tensors(torch.ones(2, M, D), torch.zeros(0, C), torch.zeros(0, dtype=torch.long))
    assert (empty.num_images, empty.num_captions, empty.num_view_images) == (2, 0, 0)


def test_what_is_no_store_in_memory():
    heads, captions, owner = torch.zeros(3, M, D), torch.zeros(2, C), torch.tensor([0, 2])
    with pytest.raises(ShapeError, match=r"features differ in length: .*\(3, 3, 5\).*\(4, 5\)"):
        FeatureStore.from_tensors({"heads": heads, "cls": torch.zeros(4, D)}, captions, owner)
    with pytest.raises(ShapeError, match=r"got \(2, 7, 1\)"):
        FeatureStore.from_tensors(heads, captions[..., None], owner)
    with pytest.raises(InputError, match=r"must lie in 0\.\.2"):
        FeatureStore.from_tensors(heads, captions, owner - 1)
    with pytest.raises(DataError, match="at least one shard"):
        FeatureStore([])
    with pytest.raises(DataError, match=r"captions and at least one image feature; got \['heads'\]"):
        FeatureStore([{"heads": heads, "caption_image": owner}])
    with pytest.raises(DataError, match=r"captions and at least one image feature; got \['captions'\]"):
        FeatureStore([{"captions": captions, "caption_image": owner}])
    with pytest.raises(InputError, match="name at least one feature store"):
        FeatureStore.open([])


def test_fingerprints_tell_views_and_features_apart():
    store = FeatureStore([piece(31, 0)])
    same, other = FeatureStore([piece(31, 1)]), FeatureStore([piece(30, 0)])
    assert store.fingerprint() == same.fingerprint()  # in memory, shapes stand for the contents
    train, held = store.split(0.2, seed=5)
    assert len({one.fingerprint() for one in (store, other, train, held)}) == 4
    assert len(store.fingerprint()) == 64


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {**t, "caption_image": t["caption_image"] - 1}, lambda t: {**t, "caption_image": t["caption_image"] + 1},
        lambda t: {**t, "heads": t["heads"][1:]}, lambda t: {n: v for n, v in t.items() if n != "caption_image"},
        lambda t: {**t, "captions": t["captions"][1:]},
    ],
)  # fmt: skip
def test_a_shard_that_disagrees_with_its_manifest_is_refused(tmp_path, change):
    """The sizes and checksums agree: somebody made both."""
    tensors = piece(13, 0)
    manifest = Manifest({}, {}, ["heads"], M, D, C, records_per_shard=13, complete=True)

    def write(tensors):
        path = tmp_path / "shard-00000.safetensors"
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
        manifest.shards = [Shard(0, path.name, 13, 26, 0, path.stat().st_size, checksum(path))]
        manifest.write(tmp_path)

    write(tensors)
    assert FeatureStore.open(tmp_path, verify=True).num_captions == 26
    write(change(tensors))
    with pytest.raises(DataError, match="disagrees with its manifest: expected 13 images and 26 captions, found "):
        FeatureStore.open(tmp_path, verify=True)


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
    for share in (0.0, 1.0, -0.1):
        with pytest.raises(InputError, match=f"between 0 and 1; got {share}"):
            store.split(share, 0)
    train, held = store.split(0.001, seed=5)  # at least one image
    assert (train.num_view_images, held.num_view_images) == (30, 1)
    train, held = held.split(0.5, seed=5)[0], store.split(0.5, seed=5)[1].split(0.25, seed=7)[1]  # views of views
    assert train.num_captions in (0, 2)
    assert set(held.rows.tolist()) < set(store.split(0.5, seed=5)[1].rows.tolist())


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
