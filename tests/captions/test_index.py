import hashlib
from array import array

import numpy as np
import pytest

from talk2dino.captions.index import TextGroups, TextList, first_places, hash64, is_repeated, is_shared


def test_text_list():
    given = ["", "one", "汽车", "", "half \ud800", "x" * 1000]
    texts = TextList()
    for text in given:
        texts.append(text)
    assert (len(texts), list(texts)) == (6, given)
    assert [texts[place] for place in (5, 2, 0)] == [given[place] for place in (5, 2, 0)]
    with pytest.raises(IndexError):
        texts[6]


def test_text_groups():
    """Texts of interleaved owners keep their order; owners take all 64 bits."""
    texts = TextList()
    for text in "abcdefg":
        texts.append(text)
    owners = array("Q", [2**64 - 1, 3, 2**64 - 1, 2**63 + 1, 3, 2**64 - 1, 3])
    groups = TextGroups(texts, owners, np.array([True, True, False, True, True, True, True]))
    found = {owner: groups[owner] for owner in (3, 2**63, 2**63 + 1, 2**64 - 1)}
    assert found == {3: ["b", "e", "g"], 2**63: [], 2**63 + 1: ["d"], 2**64 - 1: ["a", "f"]}


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
