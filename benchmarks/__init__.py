"""Measurements and comparisons; run with `python -m benchmarks.NAME`.

A regular package: some releases of pyarrow install one of this name.
"""
