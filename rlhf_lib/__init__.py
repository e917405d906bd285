"""The library of the book: alignment by reinforcement learning from human feedback, small enough to read."""
