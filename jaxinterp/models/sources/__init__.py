"""Sources of published models."""
