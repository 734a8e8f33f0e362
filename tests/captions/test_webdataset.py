import json
import os
import tarfile

import pytest
from caption_files import jpeg, listed, make_tar

from talk2dino.captions import FirstRecords, JoinedSources, Record, Skipped, open_source
from talk2dino.errors import DataError


def test_webdataset(tmp_path):
    entries = [
        ("00000.jpg", jpeg()),
        ("00000.txt", b"from txt\nsecond line"),
        ("00000.json", json.dumps({"caption": "from json", "url": "x"}).encode()),
        ("00001.txt", b"only text"),
        ("00002.png", jpeg()),
        ("00002.txt", "汽车".encode()),
        ("00003.jpg", jpeg()),
        ("00003.txt", b"\xff\xff"),
        ("00000.jpg", jpeg((1, 2, 3))),
        ("00000.txt", b"again"),
        ("00004.jpg", jpeg()),
        ("00004.json", b"{"),
    ]
    make_tar(tmp_path / "0.tar", entries)
    make_tar(tmp_path / "1.tar", [("00009.jpg", jpeg()), ("00009.txt", b"nine")])
    source = open_source(tmp_path)
    found = listed(source)
    assert [number for number, _, _ in found] == list(range(7)) == list(range(len(source)))
    assert found[0] == (0, "00000", ("from json",))
    assert found[1] == (1, "00001", "no image of that name in 0.tar")
    assert found[2] == (2, "00002", ("汽车",))
    assert found[3] == (3, "00003", "its captions are not UTF-8")
    assert found[4] == (4, "00000", "repeated sample name: its first sample is used")
    assert found[5][2].startswith("its captions cannot be read")
    assert found[6] == (6, "00009", ("nine",))
    assert listed(source, lambda number: number == 6) == [found[6]]
    assert next(source.records())[1].read() == jpeg()


@pytest.mark.parametrize("cut", [0.4, 0.75])
def test_truncated_tar(tmp_path, cut):
    entries = [
        (f"{n:03d}.{kind}", value)
        for n in range(20)
        for kind, value in (("jpg", os.urandom(3001)), ("txt", f"caption {n}".encode()))
    ]
    make_tar(tmp_path / "x.tar", entries)
    whole = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[: int(len(whole) * cut)])
    source = open_source(tmp_path / "x.tar")
    found = list(source.records())
    assert isinstance(found[-1][1], Skipped)
    assert "truncated" in found[-1][1].reason
    good = [record for _, record in found if isinstance(record, Record)]
    assert len(good) >= int(20 * cut) - 2
    for record in good[:-1]:
        assert len(record.read()) == 3001


def test_a_header_damaged_in_the_middle(tmp_path):
    make_tar(tmp_path / "x.tar", [(f"{n}.{k}", os.urandom(700)) for n in range(9) for k in ("jpg", "txt")])
    content = bytearray((tmp_path / "x.tar").read_bytes())
    content[8 * 1536 : 8 * 1536 + 512] = os.urandom(512)  # the ninth header; each entry takes three blocks
    (tmp_path / "x.tar").write_bytes(content)
    found = list(open_source(tmp_path / "x.tar").records())
    assert len(found) == 5
    assert found[-1][1] == Skipped(
        "x.tar", "the tar is truncated or damaged after 4 samples (no end mark where the next header should be)"
    )


def test_a_cut_tar_is_noted(tmp_path):
    make_tar(tmp_path / "x.tar", [(f"{n}.{kind}", os.urandom(700)) for n in range(9) for kind in ("jpg", "txt")])
    whole = (tmp_path / "x.tar").read_bytes()
    assert not open_source(tmp_path).notes
    (tmp_path / "x.tar").write_bytes(whole[:9000])
    [note] = FirstRecords(JoinedSources([open_source(tmp_path)]), 5).notes
    assert note.startswith("x.tar: the tar is ")
    assert "after 3 samples" in note


@pytest.mark.parametrize("single", [True, False])
def test_tars_of_features_are_not_captions(tmp_path, single):
    make_tar(tmp_path / "0.tar", [("00000.pth", b"features"), ("00000.json", b"{}"), ("00000.npy", b"1")])
    make_tar(tmp_path / "1.tar", [("00001.pth", b"features")])
    path = tmp_path / "0.tar" if single else tmp_path
    with pytest.raises(DataError) as refused:
        open_source(path)
    assert str(refused.value) == (
        f"{path} holds no images: it holds .pth, .npy files; expected NAME.jpg with NAME.txt or NAME.json. Features of "
        "the published extraction are not captions: give them to 'talk2dino store convert'"
    )


def test_tars_without_images_or_captions(tmp_path):
    make_tar(tmp_path / "0.tar", [])
    with pytest.raises(DataError, match=r"0.tar holds no images: it is empty; expected NAME.jpg"):
        open_source(tmp_path / "0.tar")
    (tmp_path / "0.tar").write_bytes(os.urandom(3000))
    with pytest.raises(DataError, match=r"0.tar holds no images: the tar is truncated or damaged after 0 samples \("):
        open_source(tmp_path / "0.tar")
    make_tar(tmp_path / "0.tar", [(f"{n}.jpg", jpeg()) for n in range(3)])
    with pytest.raises(DataError, match=r"holds images without captions; expected NAME.txt or NAME.json"):
        open_source(tmp_path)
    make_tar(tmp_path / "1.tar", [("9.json", b"{}")])  # captions and images are looked for in all tars together
    assert [number for number, _, _ in listed(open_source(tmp_path))] == [0, 1, 2, 3]


def test_message_names_a_few_other_endings(tmp_path):
    make_tar(tmp_path / "0.tar", [(f"x.e{n}", b"") for n in range(11)] + [("y.e0", b"")])
    with pytest.raises(DataError, match=r"it holds .e0, .e1, .e2, .e3, .e4, .e5, .e6, .e7 files"):
        open_source(tmp_path / "0.tar")


def test_sample_parts(tmp_path):
    """Endings in any case, folders in names, the JSON before the text, and a sample of each caption field."""
    entries = [
        ("a/0.JPG", b"image a"),
        ("a/0.txt", b"text a"),
        ("b/0.jpeg", b"image b"),
        ("b/0.json", b'{"caption": "", "text": ["json b", "more b"]}'),
        ("c.jpg", b"image c"),
        ("c.json", b"[1]"),
        ("c.txt", b"\xef\xbb\xbftext c\n\n second \n"),
        ("d.jpg", b"image d"),
        ("d.seg.txt", b"another file"),
        ("e.jpg", b"image e"),
        ("e.json", b"[" * 100_000),
    ]
    make_tar(tmp_path / "0.tar", entries)
    source = open_source(tmp_path / "0.tar")
    found = listed(source)
    assert found[:4] == [
        (0, "a/0", ("text a",)),
        (1, "b/0", ("json b", "more b")),
        (2, "c", ("text c", "second")),
        (3, "d", "no caption that is not empty"),
    ]
    assert found[4][2].startswith("its captions cannot be read")
    assert [record.read() for _, record in source.records(lambda number: number < 3)] == [
        b"image a", b"image b", b"image c",
    ]  # fmt: skip


def test_numbers_after_a_damaged_tar(tmp_path):
    """The lost part of a tar counts as one record, so that the next tar's numbers stay where they are."""
    make_tar(tmp_path / "0.tar", [(f"{n}.{kind}", os.urandom(700)) for n in range(9) for kind in ("jpg", "txt")])
    (tmp_path / "0.tar").write_bytes((tmp_path / "0.tar").read_bytes()[:9000])
    make_tar(tmp_path / "1.tar", [("x.jpg", b"image x"), ("x.txt", b"x")])
    source = open_source(tmp_path)
    assert len(source) == 5
    assert [number for number, _ in source.records()] == [0, 1, 2, 3, 4]
    assert [(number, key) for number, key, _ in listed(source, lambda number: number >= 3)] == [(3, "0.tar"), (4, "x")]
    assert [number for number, _ in source.records(lambda number: number == 4)] == [4]


def test_a_tar_that_was_cut_after_it_was_indexed(tmp_path):
    make_tar(tmp_path / "0.tar", [("x.txt", b"x"), ("x.jpg", b"image" * 500)])
    [(_, record)] = open_source(tmp_path).records()
    assert record.read() == b"image" * 500
    os.truncate(tmp_path / "0.tar", 2500)
    with pytest.raises(DataError, match=r"^0\.tar ends inside it$"):
        record.read()


def test_only_regular_members_count(tmp_path):
    make_tar(tmp_path / "0.tar", [("a.jpg", b"image"), ("a.txt", b"one"), ("b.txt", b"two")])
    with tarfile.open(tmp_path / "0.tar", "a") as tar:
        folder = tarfile.TarInfo("b.jpg")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    assert listed(open_source(tmp_path)) == [(0, "a", ("one",)), (1, "b", "no image of that name in 0.tar")]
