"""Every engine gives what torch gives; exported files are kept, sealed and never half-written."""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from talk2dino import Segmenter
from talk2dino.engines import ENGINES, check_engine, make_engine
from talk2dino.engines import cache as engine_cache
from talk2dino.engines import export as export_module
from talk2dino.engines.cache import exported_file, graph_name
from talk2dino.engines.export import compare, export_onnx
from talk2dino.errors import InputError, MissingExtraError, OutputError
from talk2dino.io.atomic import write_atomically
from talk2dino.models import vit
from talk2dino.models.loading import load_parts
from talk2dino.models.vision import VisionModel, VisionOutput
from talk2dino.models.vit import VisionTransformer, randomise


def skip_without(package: str) -> None:
    """As pytest.importorskip, without importing: openvino would count us."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed", allow_module_level=True)


for package in ("onnx", "onnxscript", "onnxruntime"):
    skip_without(package)

CPU = torch.device("cpu")
NAMES = ["sky", "grass", "sand", "tree", "car", "ball", "house"]
PICTURES = sorted((Path(__file__).parents[2] / "examples" / "pictures").glob("*.png"))


CONFIGS = {
    "dinov2": vit.dinov2(32, 2, 2, 128, grid=5),
    "dinov2-registers": vit.dinov2_registers(32, 2, 2, 128, grid=5),
    "dinov3": vit.dinov3(32, 2, 2, 64),
}


def tiny(kind: str, seed: int = 0) -> VisionModel:
    torch.manual_seed(seed)
    backbone = VisionTransformer(CONFIGS[kind])
    randomise(backbone, std=0.3)
    return VisionModel(backbone)


@pytest.fixture(scope="module")
def micro() -> Segmenter:
    return Segmenter.from_pretrained("micro", dtype="float32")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One export of micro for all tests of this module."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", ["openvino", "onnx"])
def test_engines_agree_with_torch(micro, cache, name):
    if name == "openvino":
        skip_without("openvino")
    run = make_engine(name, micro.vision, device=CPU, dtype=torch.float32, cache_dir=cache)
    patch = micro.vision.patch_size
    for shape in ((1, 8, 8), (3, 8, 11), (2, 13, 5)):
        pixels = torch.randn(shape[0], 3, patch * shape[1], patch * shape[2])
        ours, torchs = run(pixels), micro.vision(pixels)
        for field in ("patches", "attention", "cls"):
            a, b = getattr(ours, field), getattr(torchs, field)
            assert a.shape == b.shape
            assert (a - b).abs().max() <= 1e-4 * b.abs().max()
    # What was returned first is not written over by the next picture.
    first = run(pixels)
    kept = first.patches.clone()
    run(torch.randn_like(pixels))
    assert torch.equal(first.patches, kept)


@pytest.mark.parametrize(
    ("engine", "dtype", "bar"),
    [
        ("openvino", "float32", 0.999),
        ("openvino", "bfloat16", 0.98),
        ("onnx", "float32", 0.999),
        ("onnx", "auto", 0.999),  # float32, whatever the processor has
        ("torch", "bfloat16", 0.98),
        pytest.param("compile", "float32", 0.999, marks=pytest.mark.long),
        pytest.param("compile", "bfloat16", 0.98, marks=pytest.mark.long),
    ],
)
def test_label_maps_agree_with_float32(micro, cache, engine, dtype, bar, monkeypatch):
    if engine == "openvino":
        skip_without("openvino")
    monkeypatch.setattr("talk2dino.device.cpu_has_bfloat16", lambda: True)
    monkeypatch.setenv("TALK2DINO_CACHE", str(cache))
    other = Segmenter.from_pretrained("micro", engine=engine, dtype=dtype, device="cpu")
    assert len(PICTURES) >= 3
    for path in PICTURES:
        expected, got = micro.segment(path, NAMES), other.segment(path, NAMES)
        assert (expected.labels == got.labels).mean() >= bar
        assert got.info["engine"] == engine
        assert got.info["dtype"] == ("float32" if dtype == "auto" else dtype)
    assert len(np.unique(expected.labels)) > 1


def test_several_threads_may_call_an_engine(micro, cache):
    skip_without("openvino")
    run = make_engine("openvino", micro.vision, device=CPU, dtype=torch.float32, cache_dir=cache)
    side = 8 * micro.vision.patch_size
    inputs = [torch.randn(1, 3, side, side) for _ in range(8)]
    expected = [micro.vision(pixels).cls for pixels in inputs]
    wrong: list[int] = []

    def work(start: int) -> None:
        for i in range(start, 8, 2):
            if (run(inputs[i]).cls - expected[i]).abs().max() > 1e-3:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.long
def test_compiled_agrees_with_torch():
    vision = tiny("dinov2-registers")
    run = make_engine("compile", vision, device=CPU, dtype=torch.float32)
    for shape in ((1, 5, 5), (2, 6, 9)):
        pixels = torch.randn(shape[0], 3, 14 * shape[1], 14 * shape[2])
        assert (run(pixels).patches - vision(pixels).patches).abs().max() < 1e-4


def test_a_compiler_that_fails_is_told(monkeypatch):
    run = make_engine("compile", tiny("dinov2"), device=CPU, dtype=torch.float32)

    class BackendError(RuntimeError):
        __module__ = "torch._inductor.exc"

    def fail(pixels):
        raise BackendError("No C++ compiler found\nlong trace")

    monkeypatch.setattr(run, "compiled", fail)
    with pytest.raises(InputError, match=r"No C\+\+ compiler found\).*engine='torch'"):
        run(torch.zeros(1, 3, 28, 28))


class Fake:
    """Stands in for what torch.compile gives; says what was logged when it was called."""

    def __init__(self, caplog):
        self.caplog, self.told = caplog, []

    def __call__(self, pixels):
        self.told.append(self.caplog.text)
        return pixels


def test_a_wait_for_the_compiler_is_told_before_it_and_for_every_number_of_threads(monkeypatch, caplog):
    run = make_engine("compile", tiny("dinov2"), device=CPU, dtype=torch.float32)
    fake = Fake(caplog)
    monkeypatch.setattr(run, "compiled", fake)
    locked = []
    monkeypatch.setattr(run, "lock", CountedLock(locked))
    before = torch.get_num_threads()
    try:
        for threads in (1, 1, 2, 2):
            torch.set_num_threads(threads)
            run(torch.zeros(1, 3, 28, 42))
    finally:
        torch.set_num_threads(before)
    assert "compiling for 28 x 42" in fake.told[0]
    assert len(locked) == 2  # once a number of threads: with another one the compiler starts anew


class CountedLock:
    def __init__(self, entered):
        self.entered = entered

    def __enter__(self):
        self.entered.append(1)

    def __exit__(self, *_):
        pass


def test_on_a_gpu_outputs_are_copied_out_of_the_graphs_memory(monkeypatch):
    run = make_engine("compile", tiny("dinov2"), device=CPU, dtype=torch.float32)
    out = VisionOutput(torch.ones(1), torch.ones(1), torch.ones(1))
    monkeypatch.setattr(run, "compiled", lambda pixels: out)
    run.graphs = True
    got = run(torch.zeros(1, 3, 28, 28))
    out.cls.fill_(7)
    assert got.cls.item() == 1


LONG = [pytest.param(family, marks=pytest.mark.long) for family in ("dinov2", "dinov3")]


@pytest.mark.parametrize("family", ["dinov2-registers", *LONG])
def test_exports_of_every_family(family, tmp_path):
    vision = tiny(family)
    patch = vision.patch_size
    done = export_onnx(vision, tmp_path / "any.onnx")
    assert done.difference < 1e-4
    # Sizes that the export has not seen; the grid's own size (5 x 5, 4 x 4 for DINOv3) among them.
    own = (64 if family == "dinov3" else 70,) * 2
    assert compare(vision, done.path, (own, (12 * patch, 3 * patch), (2 * patch, 20 * patch))) < 1e-4
    assert compare(tiny(family, seed=1), done.path, (own,)) > 1e-3  # another model is told apart


def test_a_fixed_size_is_fixed(tmp_path):
    import onnxruntime

    vision = tiny("dinov2-registers")
    done = export_onnx(vision, tmp_path / "fixed.onnx", size=(70, 98))
    assert done.sizes == ((70, 98),)
    session = onnxruntime.InferenceSession(done.path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [3, 70, 98]
    assert session.run(["cls"], {"pixels": np.zeros((5, 3, 70, 98), np.float32)})[0].shape == (5, 32)
    with pytest.raises(InputError, match="multiples of the patch size 14; got 70 x 99"):
        export_onnx(vision, tmp_path / "wrong.onnx", size=(70, 99))


def test_a_graph_that_differs_takes_no_place(tmp_path, monkeypatch):
    target = tmp_path / "model.onnx"
    target.write_text("what was there")
    monkeypatch.setattr(export_module, "compare", lambda *_: float("nan"))
    with pytest.raises(OutputError, match="differs from torch by nan"):
        export_onnx(tiny("dinov2"), target, size=(28, 28))
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert target.read_text() == "what was there"


def test_weights_beyond_two_gigabytes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "LARGEST", 1000)
    with pytest.raises(InputError, match="at most 2 GB"):
        export_onnx(tiny("dinov2"), tmp_path / "model.onnx")


def test_exported_files_are_kept_by_weights_and_made_anew_when_damaged(tmp_path, monkeypatch, caplog):
    made = []

    def export(vision, path):
        made.append(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"graph")

    monkeypatch.setattr(engine_cache, "export_onnx", export)
    vision = tiny("dinov2")
    with caplog.at_level(logging.WARNING), exported_file(vision, tmp_path) as kept:
        path = kept.path
        assert path.read_bytes() == b"graph"
        assert kept.lasting
    assert "once" in caplog.text
    with exported_file(vision, tmp_path) as again:
        assert again == kept
    assert len(made) == 1
    path.write_bytes(b"grapf")
    with exported_file(vision, tmp_path):
        assert path.read_bytes() == b"graph"
    assert len(made) == 2
    assert graph_name(tiny("dinov2", seed=1)) != graph_name(vision)
    assert graph_name(tiny("dinov2")) == graph_name(vision)
    with exported_file(vision) as passing:  # the cache is off in the tests
        assert passing.path.is_file()
        assert not passing.lasting
    assert not passing.path.exists()


def test_the_name_of_a_graph_does_not_depend_on_the_dtype():
    exact = tiny("dinov2")
    for weight in exact.parameters():
        weight.copy_(weight.bfloat16())
    name = graph_name(exact)
    assert graph_name(exact.to(torch.bfloat16)) == name


def test_one_export_of_float32_weights_serves_both_dtypes(tmp_path, monkeypatch):
    skip_without("openvino")
    monkeypatch.setenv("TALK2DINO_CACHE", str(tmp_path))
    exported = []

    def export(vision, path):
        exported.append(next(vision.parameters()).dtype)
        return export_onnx(vision, path)

    monkeypatch.setattr(engine_cache, "export_onnx", export)
    parts = load_parts("micro")
    parts.vision = tiny("dinov2")  # exports in a moment
    for dtype in ("bfloat16", "float32"):
        Segmenter(replace(parts, vision=copy.deepcopy(parts.vision)), device="cpu", dtype=dtype, engine="openvino")
    assert exported == [torch.float32]
    assert len(list(tmp_path.rglob("*.onnx"))) == 1
    blobs = [path for path in (tmp_path / "engines" / "openvino").rglob("*") if path.is_file()]
    assert {path.parent.name for path in blobs} == {"f32", "bf16"}  # the next process compiles nothing
    for blob in blobs:
        blob.write_bytes(blob.read_bytes()[:50])
    damaged = make_engine("openvino", parts.vision, device=CPU, dtype=torch.float32, cache_dir=tmp_path)
    assert damaged(torch.zeros(1, 3, 28, 28)).patches.shape == (1, 2, 2, 32)


def test_a_cache_that_cannot_be_written_is_told_and_done_without(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(engine_cache, "export_onnx", lambda vision, path: write_atomically(path, b"graph"))
    with exported_file(tiny("dinov2"), tmp_path / "file") as kept:
        assert kept.path.read_bytes() == b"graph"
        assert not kept.lasting
    assert "TALK2DINO_CACHE" in caplog.text
    assert not kept.path.exists()


@pytest.mark.parametrize(("name", "package"), [("onnx", "onnxscript"), ("openvino", "openvino")])
def test_a_missing_library_names_its_extra(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*talk2dino\[{name}\]"):
        Segmenter.from_pretrained("micro", engine=name, dtype="float32")


def test_wrong_engines_are_told():
    with pytest.raises(InputError, match=r"did you mean openvino\?\); accepted: torch, compile, openvino, onnx"):
        check_engine("openvin", CPU, torch.float32)
    with pytest.raises(InputError, match="computes in float32; got bfloat16"):
        check_engine("onnx", CPU, torch.bfloat16)
    with pytest.raises(InputError, match="runs on the CPU"):
        check_engine("onnx", torch.device("cuda"), torch.float32)
    assert ENGINES[0] == "torch"


def test_the_verb(tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "talk2dino", "export", "-m", "micro", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=200)

    file = tmp_path / "micro.onnx"
    done = run("-o", str(file), "--size", "128x168", "--json")
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert line["bytes"] == file.stat().st_size
    assert line["size"] == [128, 168]
    assert line["relative_difference"] < 1e-4
    there = run("-o", str(file))
    assert there.returncode == 1
    assert "--overwrite" in there.stderr
    assert run("-o", str(tmp_path / "micro.bin")).returncode == 2
    wrong = run("-o", str(tmp_path / "b.onnx"), "--size", "127")
    assert wrong.returncode == 1
    assert "multiples of the patch size" in wrong.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["micro.onnx"]
