"""Benchmarks: scores with their intervals, from a running system or from the router alone."""
