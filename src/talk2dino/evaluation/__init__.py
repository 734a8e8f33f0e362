"""Benchmarks: data sets as they lie on disk, the published protocol, metrics and reports."""
