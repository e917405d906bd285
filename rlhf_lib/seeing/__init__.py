"""Figures, tables, drawings and interactive demos.

It may import every room but running.
"""
