"""The exported graph of a model, made once and kept by what its weights are."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from talk2dino.engines.export import export_onnx
from talk2dino.io.atomic import write_atomically
from talk2dino.io.cache import VARIABLE, cache_folder
from talk2dino.models.fingerprint import weights_checksum
from talk2dino.models.vision import VisionModel

#: Goes up when the exported graph changes, so that older files are not taken.
GRAPH_VERSION = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """An exported file, and whether it is there for the next process too."""

    path: Path
    lasting: bool


@contextlib.contextmanager
def exported_file(vision: VisionModel, cache_dir: Path | None = None) -> Iterator[Kept]:
    """The ONNX file of a model, of any picture size; exported if it is not in the cache or is damaged there.

    The file is there inside the block; without a cache ($TALK2DINO_CACHE is "off", or the folder cannot be written) it is
    gone after it.
    """
    folder = cache_dir or cache_folder()
    with contextlib.ExitStack() as stack:
        lasting = folder is not None and _holds(Path(folder) / "engines", graph_name(vision))
        if not lasting:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = Path(str(folder)) / "engines" / f"{graph_name(vision)}.onnx"
        seal = path.with_suffix(".sha256")
        if not _intact(path, seal):
            log.warning("exporting the vision model as ONNX%s", f", once: {path}" if lasting else "")
            export_onnx(vision, path)
            write_atomically(seal, _digest(path))
        yield Kept(path, lasting)


def _holds(folder: Path, name: str) -> bool:
    """Whether the folder has the file or could take it; told if not."""
    try:
        if (folder / f"{name}.onnx").is_file() and (folder / f"{name}.sha256").is_file():
            return True
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as error:
        log.warning(
            "the exported model is not kept: %s cannot be written (%s); name another cache folder with %s",
            folder, error.strerror, VARIABLE,
        )  # fmt: skip
        return False


def graph_name(vision: VisionModel) -> str:
    """A name that depends on the weights, the configuration and the exporter, and on nothing else: not on the dtype."""
    facts = (repr(vision.config), vision.rotary_attention, GRAPH_VERSION, torch.__version__.split("+")[0])
    return f"{weights_checksum(vision, torch.float32)}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:8]}"


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
