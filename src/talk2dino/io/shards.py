"""``--shard I/N``: how every verb names its share of work that is split over several machines."""

from __future__ import annotations

import re

from talk2dino.errors import InputError


def parse_shard(text: str) -> tuple[int, int]:
    """``"2/8"`` to (2, 8): share 2 of 8, counted from 1.

    Raises:
        InputError: the text is not of the form I/N with 1 <= I <= N.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip(), re.ASCII)
    number, total = (int(found[1]), int(found[2])) if found else (0, 0)
    if found and number == 0 < total:
        raise InputError(f"shards count from 1 now: {text} is written 1/{total}, and the last one is {total}/{total}")
    if not 1 <= number <= total:
        raise InputError(f"a shard is written I/N with 1 <= I <= N, for example 2/8; got {text!r}")
    return number, total
