"""The measurements of tools/benchmark.py, one subject a file."""
