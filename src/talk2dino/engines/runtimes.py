"""Optional packages, imported without telemetry."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from talk2dino.errors import MissingExtraError


def need(package: str, extra: str, purpose: str) -> Any:
    """Import an optional package.

    ``import onnxruntime`` starts a telemetry session, which writes files to the user's cache, and ``import openvino`` counts
    users through ``openvino_telemetry``, which writes files to the home folder. Both are prevented here.

    Raises:
        MissingExtraError: names the extra that installs the package.
    """
    # onnxruntime reads this when it starts, which onnxscript may also cause. Set it to 0 to allow telemetry.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        with _absent("openvino_telemetry") if package == "openvino" else contextlib.nullcontext():
            return importlib.import_module(package)
    except ImportError:
        raise MissingExtraError.of(package, extra, purpose) from None


@contextlib.contextmanager
def _absent(module: str) -> Iterator[None]:
    """Hide a module: openvino then uses its own empty stand-in."""
    before = sys.modules.get(module)
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is None:
            del sys.modules[module]
        else:
            sys.modules[module] = before
