"""What someone notices at once: the time to the first mask, and the same work beside a busy process or on one core.

    python benchmarks/everyday.py                       # three minutes on two cores; Linux (taskset)
    python benchmarks/everyday.py --only first,busy     # some of the sections

first    Wall time of ``talk2dino segment`` on one image with micro, caches warm, over that of ``python -c "import torch"``, pair
         by pair.
load     Seconds to load a whole model with ViT-B's towers, over reading its bytes (both from the page cache).
busy     Median seconds with an endless loop pinned to one core, over those without it, in one process: segment with micro
         and with ViT-B (random weights, batch 1), and an epoch of training on features of micro's size.
core     Median seconds of micro and ViT-B under ``taskset -c 0``, over those with OMP_NUM_THREADS=1 and both cores, in new
         processes.
int8     The speed of int8 over bfloat16, if the package had it: ViT-B with oneDNN's int8 product in every linear layer, one scale
         per channel of the weights and per token of the activations; and the same without turning activations into
         integers and back, whose results are wrong: no implementation can be faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from talk2dino import threads

IMAGE = Path(__file__).parents[1] / "examples" / "pictures" / "beach.png"
PAIRS, CALLS = 5, {"micro": 40, "vitb": 9, "train": 3}
SECTIONS = ("first", "load", "busy", "core", "int8")


def wall(*command: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return time.perf_counter() - started


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def seconds(work: Callable[[], object], calls: int) -> list[float]:
    spent = []
    for _ in range(calls):
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return spent


def first() -> None:
    with tempfile.TemporaryDirectory() as out:
        segment = [
            "-m",
            "talk2dino",
            "segment",
            str(IMAGE),
            "-p",
            "sand, grass",
            "-m",
            "micro",
            "-o",
            out,
            "--overwrite",
        ]
        wall(*segment)  # fills the caches
        pairs = [(wall(*segment), wall("-c", "import torch")) for _ in range(PAIRS)]
    taken = statistics.median(a for a, _ in pairs)
    print(f"first mask: {taken:.2f} s, {spread([a / b for a, b in pairs])} x import torch (goal 2.2)")


def load() -> None:
    from talk2dino import Segmenter
    from talk2dino.speed.workload import load as load_model

    with tempfile.TemporaryDirectory() as folder:
        load_model("random-vitb", dtype="float32").save_pretrained(folder)
        size = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))

        def read() -> None:
            for file in Path(folder).glob("*.safetensors"):
                file.read_bytes()

        def load_all() -> None:
            Segmenter.from_pretrained(folder, dtype="float32")

        load_all()
        pairs = [(seconds(load_all, 1)[0], seconds(read, 1)[0]) for _ in range(PAIRS)]
    taken = statistics.median(a for a, _ in pairs)
    print(f"load {size / 1e6:.0f} MB: {taken:.2f} s, {spread([a / b for a, b in pairs])} x reading (goal 1.5)")


def works() -> dict[str, Callable[[], object]]:
    """Calls to time, by name."""
    from talk2dino.io.images import read_image
    from talk2dino.speed.workload import load as load_model

    image = read_image(IMAGE)
    made: dict[str, Callable[[], object]] = {}
    for name, segmenter in (("micro", load_model("micro")), ("vitb", load_model("random-vitb"))):
        text = segmenter.encode_text(["sand", "grass", "tree"])
        made[name] = lambda segmenter=segmenter, text=text: segmenter.segment(image, text)  # type: ignore[misc]
    return made


def training(folder: Path) -> Callable[[], object]:
    """One run of ten epochs on features of micro's size."""
    import training as steps  # benchmarks/training.py
    from talk2dino.training.fit import train
    from talk2dino.training.options import TrainOptions

    store = steps.random_store(folder, 2000, 2, 3, 192, 128)

    def run() -> None:
        with tempfile.TemporaryDirectory() as out:
            train(store, TrainOptions(epochs=5), out, verify=False)

    return run


def busy() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, work in {**works(), "train": training(Path(folder))}.items():
            seconds(work, 3)  # compiles and warms up
            alone = statistics.median(seconds(work, CALLS[name]))
            loop = subprocess.Popen(["taskset", "-c", "0", sys.executable, "-c", "while True: pass"])
            try:
                time.sleep(0.5)
                beside = statistics.median(seconds(work, CALLS[name]))
            finally:
                loop.kill()
                loop.wait()
            print(
                f"{name}: {1000 * alone:.1f} ms alone, {1000 * beside:.1f} beside a busy process, {beside / alone:.2f} x (goal 2.0)"
            )


def core() -> None:
    for name in ("micro", "vitb"):
        pinned, single = [], []
        for _ in range(3):
            for found, before, environment in (
                (pinned, ["taskset", "-c", "0"], {}), (single, [], {"OMP_NUM_THREADS": "1"}),
            ):  # fmt: skip
                command = [*before, sys.executable, __file__, "--median-of", name]
                done = subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, text=True)
                found.append(float(done.stdout))
        print(
            f"{name} on one core: {spread([a / b for a, b in zip(pinned, single, strict=True)])} x OMP_NUM_THREADS=1 (goal 1.1)"
        )


def int8() -> None:
    import torch
    import torch.nn.functional as F

    import forward  # benchmarks/forward.py
    from talk2dino.models.fused import FusedLinear

    class Integer(torch.nn.Module):
        """A fused layer in int8, one scale per output channel and per token; not ``whole``: the product alone."""

        def __init__(self, layer: FusedLinear, whole: bool) -> None:
            super().__init__()
            self.whole, self.how, self.bias = whole, layer.how, layer.bias
            scale = layer.plain.float().abs().amax(1) / 127
            weight = (layer.plain.float() / scale[:, None]).round().to(torch.int8)
            self.packed, self.scale = torch.ops.onednn.qlinear_prepack(weight, None), scale
            self.zeros = torch.zeros(len(scale), dtype=torch.int64)
            self.x: dict[torch.Size, torch.Tensor] = {}

        def product(self, x: torch.Tensor, *how: object) -> torch.Tensor:
            return torch.ops.onednn.qlinear_pointwise(
                x, torch.tensor(1.0), torch.tensor(0), self.packed, self.scale, self.zeros, None, 1.0, 0, torch.bfloat16, *how
            )  # fmt: skip

        def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
            if not self.whole:
                if x.shape not in self.x:
                    self.x[x.shape] = torch.zeros(x.shape, dtype=torch.int8)
                return self.product(self.x[x.shape], *self.how)
            scale = x.abs().amax(-1, keepdim=True) / 127
            y = torch.addcmul(self.bias, self.product((x / scale).round().to(torch.int8), "none", [], ""), scale)
            y = F.gelu(y) if self.how[0] == "gelu" else y
            return y if residual is None else y.add_(residual)

    for batch in (1, 4):
        models = [forward.fused_model("vitb") for _ in range(3)]
        for model, whole in zip(models[1:], (True, False), strict=True):
            for module in list(model.vision.backbone.modules()):
                for name, child in module.named_children():
                    if isinstance(child, FusedLinear):
                        setattr(module, name, Integer(child, whole))
        pixels = torch.randn(batch, 3, forward.SIDE, forward.SIDE)
        passes = [partial(model, pixels) for model in models]
        with torch.inference_mode():
            patches = [one().patches.flatten(0, 2).float() for one in passes[:2]]
            times = [[seconds(one, 1)[0] for one in passes] for _ in range(11)]
        ratios = [[turn[0] / turn[i] for turn in times] for i in (1, 2)]
        cosine = F.cosine_similarity(*patches).mean()
        print(
            f"int8, batch {batch}: {spread(ratios[0])} x bfloat16 (goal 1.3; cosine of the patches {cosine:.4f}), "
            f"products alone {spread(ratios[1])}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--median-of", choices=["micro", "vitb"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    threads.prepare()  # before torch is loaded
    if options.median_of:
        work = works()[options.median_of]
        seconds(work, 3)
        print(statistics.median(seconds(work, CALLS[options.median_of])))
        return
    chosen = options.only.split(",")
    if unknown := sorted(set(chosen) - set(SECTIONS)):
        parser.error(f"unknown sections: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    for name in chosen:
        globals()[name]()


if __name__ == "__main__":
    main()
