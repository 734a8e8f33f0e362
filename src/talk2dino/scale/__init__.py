"""Jobs larger than one machine: a plan of shards, workers that make them, and receipts that say what is done."""
