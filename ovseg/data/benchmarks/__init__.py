"""Benchmarks: what they are, how they are fetched, converted, checked and entered into the catalogs by name.

Each file or sub-package registers its family of data sets, by being here.
"""

from ovseg.data.benchmarks.base import BENCHMARKS, Benchmark, Layout, Place, Source, Split
from ovseg.data.benchmarks.registry import benchmark_names, data_root, find_places, read_benchmark
from ovseg.system.registry import register_all

register_all(__name__)

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
