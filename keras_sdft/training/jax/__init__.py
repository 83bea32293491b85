"""The training step in JAX, and what it needs."""
