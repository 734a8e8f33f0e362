"""Results on standard output."""

from __future__ import annotations

import json


def print_json(value: object) -> None:
    """Print one JSON line."""
    print(json.dumps(value, ensure_ascii=False), flush=True)
