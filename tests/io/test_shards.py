import pytest

from talk2dino.errors import InputError
from talk2dino.io.shards import parse_shard


def test_shards_count_from_1():
    assert [parse_shard(text) for text in ("1/1", "1/4", " 4/4 ", "11/13")] == [(1, 1), (1, 4), (4, 4), (11, 13)]


def test_the_old_form_is_named():
    with pytest.raises(InputError, match=r"shards count from 1 now: 0/4 is written 1/4, and the last one is 4/4"):
        parse_shard("0/4")


@pytest.mark.parametrize("text", ["", "3", "5/4", "0/0", "1/0", "-1/4", "1/4/2", "a/b", "1.0/2", "²/³"])
def test_refused(text):
    with pytest.raises(InputError, match=r"written I/N with 1 <= I <= N, for example 2/8; got "):
        parse_shard(text)
