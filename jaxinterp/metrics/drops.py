"""The share of the answers' probability that an edit takes away."""

from jaxinterp.metrics.registry import Mean, Values


def drop(mean: Mean, column: str) -> Values:
    """1 − mean P(edited) / mean P: a ratio of means inside each relation."""
    return 1 - mean(column) / mean("probability")
