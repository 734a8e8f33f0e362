"""Pure functions on tensors, one stage a file; no stage imports another."""
