"""Measurements of speed and memory: `python -m benchmarks`, or one of them alone, `python -m benchmarks engine`."""
