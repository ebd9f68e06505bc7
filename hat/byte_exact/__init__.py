"""Exact byte-level probabilities of tokenized models, and of any other model of bytes."""
