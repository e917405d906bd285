"""Formulas as functions of numbers and tensors: numpy and torch, and nothing else.

A hand-out by itself. It imports no other room.
"""
