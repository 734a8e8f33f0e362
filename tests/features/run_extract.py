"""Run extract with the fake encoders in a process of its own, so that a test can kill it."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from fakes import SIZE, fake_encoders

from talk2dino.captions.layouts import open_source
from talk2dino.features.extraction import ExtractOptions, extract


def main() -> None:
    source, out, slow = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    options = ExtractOptions(size=SIZE, batch_size=3, records_per_shard=5, max_skipped=1.0)
    extract(open_source(source), fake_encoders(), out, options, watch=lambda record: time.sleep(slow))


if __name__ == "__main__":
    main()
