"""State, step, loop, optimizer, sharding, checkpoints, metrics."""
