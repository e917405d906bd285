"""Runs: shipped checkpoints, held-out measurements, logs, and the command line.

It may import every room.
"""
