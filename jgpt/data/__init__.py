"""From files and generators to batches: numpy and grain, never jax."""
