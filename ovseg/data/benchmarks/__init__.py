"""Benchmarks: what they are, how they are fetched, converted, checked and entered into the catalogs by name."""

from ovseg.data.benchmarks.base import Benchmark, Layout, Place, Source, Split
from ovseg.data.benchmarks.registry import BENCHMARKS, benchmark_names, data_root, find_places, read_benchmark

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "Layout",
    "Place",
    "Source",
    "Split",
    "benchmark_names",
    "data_root",
    "find_places",
    "read_benchmark",
]
