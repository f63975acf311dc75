"""Runs: what is evaluated, on what, and the log from which a run goes on."""
