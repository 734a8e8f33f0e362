"""The exported graph of a model, made once and kept by what its weights are."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from talk2dino.engines.export import export_onnx
from talk2dino.io.atomic import write_atomically
from talk2dino.io.cache import cache_folder
from talk2dino.models.identity import weights_checksum
from talk2dino.models.vision import VisionModel

#: Goes up when the exported graph changes, so that older files are not taken.
GRAPH_VERSION = 1

log = logging.getLogger(__name__)


@contextlib.contextmanager
def exported_file(vision: VisionModel, cache_dir: Path | None = None) -> Iterator[Path]:
    """The ONNX file of a model, of any picture size; exported if it is not in the cache or is damaged there.

    The file is there inside the block; without a cache ($TALK2DINO_CACHE is "off") it is gone after it.
    """
    folder = cache_dir or cache_folder()
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = Path(folder) / "engines" / f"{graph_name(vision)}.onnx"
        seal = path.with_suffix(".sha256")
        if not _intact(path, seal):
            log.warning("exporting the vision model as ONNX, once: %s", path)
            export_onnx(vision, path)
            write_atomically(seal, _digest(path))
        yield path


def graph_name(vision: VisionModel) -> str:
    """A name that depends on the weights, the configuration and the exporter, and on nothing else."""
    import torch

    facts = (
        vision.backbone.config.to_json_string(), vision.rotary_attention, GRAPH_VERSION, torch.__version__.split("+")[0]
    )  # fmt: skip
    return f"{weights_checksum(vision)}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:8]}"


def _intact(path: Path, seal: Path) -> bool:
    try:
        return seal.read_text(encoding="ascii", errors="replace") == _digest(path)
    except OSError:
        return False


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
