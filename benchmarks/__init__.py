"""The runs that the book recorded, each a module: `python -m benchmarks.NAME` from the root.

A line of `results/NAME.jsonl` is one run, with the command, versions and hardware that made it.
"""
