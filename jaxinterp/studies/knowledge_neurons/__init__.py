"""The experiment of the paper, on any model."""
