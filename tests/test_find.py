"""Finding images by words: the index, what it keeps, and what it answers."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command import run_here
from PIL import Image

from talk2dino import Segmenter
from talk2dino.errors import DataError, InputError
from talk2dino.find import SOFTNESS, ImageIndex, summarise_patches
from talk2dino.world import CLASS_NAMES, render, sample_scene


@pytest.fixture(scope="module")
def micro():
    return Segmenter.from_pretrained("micro", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eleven scenes, their shares of each class, and a file that is no image."""
    path = tmp_path_factory.mktemp("find")
    shares = []
    for i in range(11):
        scene = render(sample_scene(30_000_300 + i), 67)
        Image.fromarray(scene.image).save(path / f"{i}.png")
        shares.append(np.bincount(scene.labels.ravel(), minlength=16) / scene.labels.size)
    (path / "broken.png").write_bytes(b"no image")
    np.save(path / "shares.npy", np.stack(shares))
    return path


def paths_of(folder):
    return sorted(folder.glob("*.png"))


def test_clusters_keep_the_mean_of_the_patches():
    patches = F.normalize(torch.randn(97, 13, generator=torch.Generator().manual_seed(1)), dim=1)
    centres, shares = summarise_patches(patches)
    assert (centres.shape, shares.shape) == ((16, 13), (16,))
    assert float(shares.sum()) == pytest.approx(1)
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(16))
    few, shares = summarise_patches(patches[:5])
    assert few.shape == (16, 13)
    assert float(shares[5:].sum()) == 0


def test_images_that_show_the_class_come_first(micro, folder):
    index = ImageIndex(micro, None)
    assert index.update(paths_of(folder)) == 11  # the broken one is left out
    shares = np.load(folder / "shares.npy")
    ranked = 0
    for number, name in enumerate(CLASS_NAMES[:8]):  # surfaces
        present = shares[:, number] > 0.2
        if not 0 < present.sum() < 11:
            continue
        found = [int(one.path.stem) for one in index.ask(micro.encode_text([name]), paths_of(folder))]
        assert present[found[: present.sum()]].mean() > 0.6, name
        ranked += 1
    assert ranked >= 4


def test_the_relevance_is_the_formula_written_out(micro, folder):
    path = folder / "3.png"
    index = ImageIndex(micro, None)
    index.update([path])
    text = micro.encode_text(["ball", "sky"], negative=["grass"])
    [found] = index.ask(text, [path])
    features, shares = index.shards[0]
    scores = features[0].astype(np.float32) @ text.embeddings.numpy().T  # [16, 3]
    allowed = shares[0][:, None] * (scores[:, :2] >= scores[:, 2:])
    sure = 1 / (1 + np.exp(-(scores[:, :2] - index.threshold) / SOFTNESS))
    assert found.relevance == pytest.approx((allowed * sure).sum(0).min(), abs=1e-5)
    assert found.share == pytest.approx((allowed * (scores[:, :2] >= index.threshold)).sum(0).min(), abs=1e-5)


def test_the_index_is_kept_and_only_what_changed_is_encoded(micro, folder, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(folder, images)
    paths = paths_of(images)
    first = ImageIndex(micro, tmp_path / "index")
    assert first.update(paths) == 11
    answer = first.ask(micro.encode_text(["sky"]), paths)
    again = ImageIndex(micro, tmp_path / "index")
    assert again.update(paths) == 0
    assert again.ask(micro.encode_text(["sky"]), paths) == answer
    Image.new("RGB", (40, 30)).save(images / "3.png")
    assert again.update(paths) == 1
    assert ImageIndex(micro, tmp_path / "index").update(paths) == 0
    (images / "4.png").unlink()
    assert len(again.ask(micro.encode_text(["sky"]), paths_of(images))) == 10
    with pytest.raises(InputError, match="mode: "):
        ImageIndex(micro, tmp_path / "index", mode="square")
    shard = tmp_path / "index" / "shard-00000.npz"
    shard.write_bytes(shard.read_bytes()[:300])
    with pytest.raises(DataError, match=r"shard-00000.npz is damaged.*delete the folder"):
        ImageIndex(micro, tmp_path / "index")


def test_an_interrupted_run_keeps_what_it_has(micro, folder, tmp_path):
    def stop(done, total, note=""):
        if done >= 8:
            raise KeyboardInterrupt

    index = ImageIndex(micro, tmp_path / "index")
    with pytest.raises(KeyboardInterrupt):
        index.update(paths_of(folder), batch_size=4, progress=stop)
    later = ImageIndex(micro, tmp_path / "index")
    assert 4 <= len(later.rows) < 11
    assert later.update(paths_of(folder)) == 11 - len(index.rows)


def test_words_and_methods_that_do_not_fit(micro, folder):
    index = ImageIndex(micro, None)
    with pytest.raises(InputError, match="encoded with micro"):
        index.ask(micro.with_method("clip-dense").encode_text(["sky"]), paths_of(folder))
    with pytest.raises(InputError, match="no named classes"):
        ImageIndex(micro.with_method("dino-clusters"), None)


def test_the_command_ranks_and_is_fast_the_second_time(capsys, folder, tmp_path):
    call = ("find", "sky", folder, "-m", "micro", "--index", tmp_path / "index", "--json", "-n", "3")
    first = run_here(capsys, *call)
    assert first.returncode == 0, first.stderr
    lines = [json.loads(line) for line in first.stdout.splitlines()]
    assert len(lines) == 3
    assert lines[0]["relevance"] >= lines[1]["relevance"]
    assert "broken.png" in first.stderr
    plain = run_here(capsys, *call[:-3])
    assert plain.stdout.splitlines()[0].endswith(lines[0]["image"])
    example = run_here(capsys, "find", "", folder, "--example", f"it={folder / '2.png'}:5,5,60,20", *call[3:])
    assert json.loads(example.stdout.splitlines()[0])["score"] > 0.3
    assert run_here(capsys, "find", "", folder, *call[3:]).returncode == 2
    assert run_here(capsys, "find", "sky", tmp_path / "nowhere", *call[3:]).returncode == 1
