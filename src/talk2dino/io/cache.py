"""The folder for files that can be computed again."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "TALK2DINO_CACHE"


def cache_folder() -> Path | None:
    """$TALK2DINO_CACHE, else $XDG_CACHE_HOME/talk2dino, else ~/.cache/talk2dino; None if the variable says "off"."""
    setting = os.environ.get(VARIABLE, "")
    if setting.lower() in ("off", "0", "none"):
        return None
    if setting:
        return Path(setting).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "talk2dino"
    except RuntimeError:  # no home folder
        return None
