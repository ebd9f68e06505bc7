"""Bytes, words and tokens on the host. No jax here."""
