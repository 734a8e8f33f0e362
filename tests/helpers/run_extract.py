"""Run extract with the fake encoders in a process of its own, so that a test can kill it."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fakes import run_extract

from talk2dino.captions import open_source


def main() -> None:
    source, out, slow = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    run_extract(open_source(source), out, progress=lambda done, total, note="": time.sleep(slow))


if __name__ == "__main__":
    main()
