"""The two speeds that training your own projection depends on: those of extraction and of training, as ratios.

    python benchmarks/alignment.py                # some minutes on two cores
    python benchmarks/alignment.py --json

benchmarks/extraction.py compares extraction with the bare vision model, benchmarks/training.py compares training with a bare
loop. Each runs in a separate process, like `extract` and `train`: threads left over from one could slow down the other. Both
have more options.
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
    """The output of another benchmark with --json."""
    call = [sys.executable, str(Path(__file__).parent / file), "--json", *given]
    output = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, help="of each; their own defaults if not given")
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
