"""Figures, as commands: `python -m benchmarks` lists them.

Machines differ and are noisy, so each compares what it measures with something else in the same run.
"""
