"""Benchmarks that are no part of the package; `ffdist bench` is the other half."""
