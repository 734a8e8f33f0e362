"""Optional packages, imported without the counting and the files that two of them come with."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from talk2dino.errors import MissingExtraError


def need(package: str, extra: str, purpose: str) -> Any:
    """An optional package, or the error that names the extra it comes with.

    ``import onnxruntime`` starts a telemetry session, which leaves files in the user's cache, and ``import openvino``
    counts its users through ``openvino_telemetry``, which leaves files in the home folder. Neither happens here.
    """
    # Read when onnxruntime starts, which onnxscript may also cause; whoever wants it sets the variable to 0.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        with _absent("openvino_telemetry") if package == "openvino" else contextlib.nullcontext():
            return importlib.import_module(package)
    except ImportError:
        raise MissingExtraError.of(package, extra, purpose) from None


@contextlib.contextmanager
def _absent(module: str) -> Iterator[None]:
    """As if a module were not installed: openvino then takes the empty stand-in that it brings along."""
    before = sys.modules.get(module)
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is None:
            del sys.modules[module]
        else:
            sys.modules[module] = before
