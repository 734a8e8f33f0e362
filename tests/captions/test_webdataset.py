import json
import os

import pytest
from caption_files import jpeg, listed, make_tar

from talk2dino.captions import FirstRecords, JoinedSources, Record, Skipped, open_source


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
    assert found[-1][1] == Skipped("x.tar", "the tar is truncated or damaged after 4 samples")


def test_a_cut_tar_is_noted(tmp_path):
    make_tar(tmp_path / "x.tar", [(f"{n}.{kind}", os.urandom(700)) for n in range(9) for kind in ("jpg", "txt")])
    whole = (tmp_path / "x.tar").read_bytes()
    assert not open_source(tmp_path).notes
    (tmp_path / "x.tar").write_bytes(whole[:9000])
    [note] = FirstRecords(JoinedSources([open_source(tmp_path)]), 5).notes
    assert note.startswith("x.tar: the tar is ")
    assert "after 3 samples" in note
