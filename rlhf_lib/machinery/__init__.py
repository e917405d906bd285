"""How it is computed: memory, precision, processes, checkpoints. Skip it at first reading.

It may import mathematics and models.
"""
