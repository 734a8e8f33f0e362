"""Both speeds that training a mapping of one's own depends on: extraction's and the training loop's, each as a ratio.

    python benchmarks/alignment.py                # some minutes on two cores
    python benchmarks/alignment.py --json

What is compared with what: benchmarks/extraction.py (extraction against the bare backbone) and benchmarks/training.py
(the training loop, and the published loop's shape, against a bare loop). Options of either go to that file alone.
"""

from __future__ import annotations

import argparse
import json

import torch

import extraction
import training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, help="of each; else as their own commands have it")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    given = ["--threads", str(options.threads), *(["--turns", str(options.turns)] if options.turns else [])]
    found = {
        "extraction": extraction.speed(extraction.make_parser().parse_args(given)),
        "training": training.measure(training.make_parser().parse_args(given)),
    }
    if options.json:
        print(json.dumps(found))
        return
    extraction.show_speed(found["extraction"])
    print()
    training.show(found["training"])


if __name__ == "__main__":
    main()
