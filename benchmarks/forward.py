"""The vision model in bfloat16 against the bound of its matrix products, and the forms of its linear layers.

    python benchmarks/forward.py                       # ViT-B at batch 1, 2 and 4, ViT-L at batch 1: a minute or two
    python benchmarks/forward.py --forms               # the same with every narrow layer plain, and transposed
    python benchmarks/forward.py --pieces 1100 2100    # other numbers of tokens that pass through the model at once
    python benchmarks/forward.py --layers              # GFLOP/s of each layer in each form, by number of rows

A ratio is seconds of a forward pass x FLOP per second of a 2048 x 2048 product / FLOP of the pass, medians over the turns;
both are measured in every turn. Images are 448 x 448, weights random. The rule that chooses the form of a layer is
``computes_transposed`` in models/fused.py; the tables here are what it is made from.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial

import torch
from torch import nn

from talk2dino.models import fused
from talk2dino.models.fused import FusedLinear, FusedVision, why_not
from talk2dino.models.vision import VisionModel
from talk2dino.models.vit import VisionTransformer, dinov2_registers, randomise
from talk2dino.speed.clocks import take_turns, vision_flops

CPU = torch.device("cpu")
SIZES = {"vitb": (768, 12, 12), "vitl": (1024, 24, 16)}
GOALS = {("vitb", 1): 1.8, ("vitb", 4): 1.6, ("vitl", 1): 1.6}
SIDE = 448
ROWS = (259, 1029, 2058, 4116)
RULE = fused.computes_transposed


def fused_model(name: str) -> FusedVision:
    width, depth, heads = SIZES[name]
    torch.manual_seed(0)
    backbone = VisionTransformer(dinov2_registers(width, depth, heads, 4 * width))
    randomise(backbone)
    return FusedVision(VisionModel(backbone.bfloat16()))


def always(value: bool, rows: int, outputs: int, inputs: int) -> bool:
    return value and outputs <= fused.NARROW


def measure_passes(name: str, batches: list[int], options: argparse.Namespace) -> None:
    model = fused_model(name)
    flop = vision_flops(VisionModel(VisionTransformer(model.vision.config)), SIDE, SIDE)
    left, right = (torch.randn(2048, 2048).bfloat16() for _ in range(2))
    forms = {"rule": RULE}
    if options.forms:
        forms |= {"plain": partial(always, False), "transposed": partial(always, True)}
    for batch in batches:
        pixels = torch.randn(batch, 3, SIDE, SIDE)
        for pieces in options.pieces or [fused.PIECE_TOKENS]:
            for form, rule in forms.items():
                fused.PIECE_TOKENS, fused.computes_transposed = pieces, rule
                works = {"product": partial(torch.mm, left, right), "pass": partial(model, pixels)}
                with torch.inference_mode():
                    times = take_turns(works, options.turns, CPU)
                bounds = [batch * flop * product / (2 * 2048**3) for product in times["product"]]
                ratios = sorted(taken / bound for taken, bound in zip(times["pass"], bounds, strict=True))
                goal = GOALS.get((name, batch))
                print(
                    f"{name} batch {batch}, {pieces} tokens at once, {form:10s} {statistics.median(ratios):5.2f} x bound "
                    f"({ratios[0]:.2f} to {ratios[-1]:.2f}{f'; goal {goal}' if goal else ''})   "
                    f"{1000 * statistics.median(times['pass']) / batch:7.1f} ms per image, product "
                    f"{2 * 2048**3 / statistics.median(times['product']) / 1e9:,.0f} GFLOP/s",
                    flush=True,
                )


def measure_layers(turns: int) -> None:
    """GFLOP/s of the layers of ViT-S, B and L; the narrow ones with the sum of the block's input, as in a block."""
    print(f"{'layer':>14} {'rows':>6} {'plain':>8} {'transposed':>11}   rule")
    for width in (384, 768, 1024):
        for inputs, outputs in ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)):
            linear = nn.Linear(inputs, outputs, dtype=torch.bfloat16)
            layers = {form: FusedLinear(linear) for form in ("plain", "transposed")}
            for rows in ROWS:
                x = torch.randn(1, rows, inputs).bfloat16()
                before = torch.randn(1, rows, outputs).bfloat16() if outputs == width else None
                works = {
                    form: partial(run_as, layer, form == "transposed", x, before) for form, layer in layers.items()
                }
                with torch.inference_mode():
                    times = take_turns(works, turns, CPU)
                rates = {form: 2 * rows * inputs * outputs / statistics.median(t) / 1e9 for form, t in times.items()}
                chosen = "transposed" if RULE(rows, outputs, inputs) else "plain"
                print(
                    f"{inputs:>6} -> {outputs:<5} {rows:>6} {rates['plain']:>8,.0f} {rates['transposed']:>11,.0f}   "
                    f"{chosen}{'' if rates[chosen] >= 0.95 * max(rates.values()) else '  <- the other one is faster'}",
                    flush=True,
                )


def run_as(layer: FusedLinear, transposed: bool, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
    fused.computes_transposed = lambda *_: transposed
    return layer(x, residual)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(SIZES), help="one model instead of both")
    parser.add_argument("--batch", type=int, nargs="+", help="[1 2 4 for vitb, 1 for vitl]")
    parser.add_argument("--pieces", type=int, nargs="+")
    parser.add_argument("--forms", action="store_true")
    parser.add_argument("--layers", action="store_true")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if why_not():
        raise SystemExit(f"layers cannot be fused here: {why_not()}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if options.layers:
        measure_layers(options.turns)
        return
    for name in [options.model] if options.model else list(SIZES):
        measure_passes(name, options.batch or ([1, 2, 4] if name == "vitb" else [1]), options)


if __name__ == "__main__":
    main()
