import hashlib
from array import array

import pytest

from talk2dino.captions.index import TextList, first_places, hash64, is_repeated, is_shared


def test_text_list():
    given = ["", "one", "汽车", "", "half \ud800", "x" * 1000]
    texts = TextList(given[:2])
    for text in given[2:]:
        texts.append(text)
    assert list(texts) == given
    assert texts[1:5:2] == given[1:5:2]
    for place in (6, -1):
        with pytest.raises(IndexError):
            texts[place]


def test_equal_hashes():
    """Zeros are missing keys, and equal nothing."""
    hashes = array("Q", [7, 0, 2**64 - 1, 7, 0, 5, 7, 2**64 - 1])
    assert first_places(hashes).tolist() == [0, 1, 2, 0, 4, 5, 0, 2]
    assert is_repeated(hashes).tolist() == [False, False, False, True, False, False, True, True]
    assert is_shared(hashes).tolist() == [True, False, True, True, False, False, True, True]
    for function in (first_places, is_repeated, is_shared):
        assert function(array("Q")).tolist() == []


def test_hashes_of_keys():
    """64 bits that depend on the key alone, also with half a surrogate pair; never the 0 of a missing key."""
    assert len({hash64(key) for key in ("a", "b", "", "\udcff", "a ")}) == 5
    assert hash64("a") == int.from_bytes(hashlib.blake2b(b"a", digest_size=8).digest(), "little")
