"""Figures, tables of results and interactive demos.

It may import every room but running.
"""
