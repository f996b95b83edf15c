"""Training objectives. Kept empty, so that configs import without JAX."""
