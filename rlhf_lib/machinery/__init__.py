"""How it is computed: memory, precision, processes, caches. Skip it at first reading.

It imports no other room: it knows of rows and masks, and not of language.
"""
