"""File names as text. A name is bytes to the system; those that are not UTF-8 reach Python as lone surrogates."""

from __future__ import annotations

import re

SURROGATE = re.compile("[\ud800-\udfff]")


def readable(name: object) -> str:
    """Text that can be printed anywhere UTF-8 can: a byte that is not UTF-8 becomes ``\\xNN``."""

    def escape(found: re.Match[str]) -> str:
        code = ord(found[0])
        return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"

    return SURROGATE.sub(escape, str(name))
