"""Checkpoints of other formats in and out, and the first parameters of a HAT around a Llama."""
