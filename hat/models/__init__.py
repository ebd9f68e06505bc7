"""The models: jax and flax only. They know arrays, not files."""
