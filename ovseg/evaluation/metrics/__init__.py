"""Measures: evaluators that stream and merge exactly."""
