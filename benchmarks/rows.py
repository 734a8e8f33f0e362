"""Where oneDNN leaves a core idle: a packed linear layer in one call against the same layer in pieces of rows.

    python benchmarks/rows.py

Prints the time of one call divided by the time of equal pieces of at most 384 rows, for the layers of ViT-S, ViT-B and ViT-L.
Above 1, the pieces are faster. This is why models/fused.py does not split rows: what helps one layer at one number of rows
(ViT-B with one image of 448 x 448: 1029 rows) costs another layer more.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from talk2dino.models.fused import PackedLinear

ROWS = (256, 400, 512, 640, 768, 900, 1029, 1160, 1300, 1365, 1700)
PIECE = 384


def seconds(work: Callable[[], object], turns: int) -> float:
    """Median of ``turns`` calls, after three unmeasured ones."""
    spent = []
    for _ in range(3 + turns):
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent[3:])


def in_pieces(layer: PackedLinear, x: Tensor) -> Tensor:
    """The layer's output for (1, rows, inputs), computed in equal pieces of rows."""
    return torch.cat([layer(piece) for piece in x.tensor_split(-(-x.shape[1] // PIECE), dim=1)], dim=1)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{'rows':>14}" + "".join(f"{rows:>6}" for rows in ROWS))
    for width in (384, 768, 1024):
        for inputs, outputs in ((width, width), (width, 4 * width), (4 * width, width)):
            weight, bias = torch.randn(outputs, inputs) * 0.02, torch.zeros(outputs)
            layer = PackedLinear(weight.bfloat16(), bias.bfloat16(), gelu=outputs > inputs)
            ratios = []
            for rows in ROWS:
                x = torch.randn(1, rows, inputs).bfloat16()
                whole = seconds(partial(layer, x), options.turns)
                ratios.append(whole / seconds(partial(in_pieces, layer, x), options.turns))
            print(f"{inputs:>6} ->{outputs:>5}" + "".join(f"{ratio:6.2f}" for ratio in ratios), flush=True)


if __name__ == "__main__":
    main()
