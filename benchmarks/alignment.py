"""Both speeds that training a projection of one's own depends on: extraction's and the training loop's, each as a ratio.

    python benchmarks/alignment.py                # some minutes on two cores
    python benchmarks/alignment.py --json

What is compared with what: benchmarks/extraction.py (extraction against the bare backbone) and benchmarks/training.py
(the training loop, and the published loop's shape, against a bare loop). Each is measured in a process of its own, as
`extract` and `train` are: threads that the one leaves behind could slow the other's steps. Options of either go to that
file alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import extraction
import training


def measured(file: str, given: list[str]) -> dict:
    """What a benchmark beside this one prints with --json."""
    call = [sys.executable, str(Path(__file__).parent / file), "--json", *given]
    output = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, help="of each; else as their own commands have it")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    given = ["--threads", str(options.threads), *(["--turns", str(options.turns)] if options.turns else [])]
    found = {"extraction": measured("extraction.py", given), "training": measured("training.py", given)}
    if options.json:
        print(json.dumps(found))
        return
    extraction.show_speed(found["extraction"])
    print()
    training.show(found["training"])


if __name__ == "__main__":
    main()
