"""The share of the answers' probability that an edit takes away."""

from collections.abc import Mapping

from jaxinterp.facts.controls import Kind
from jaxinterp.metrics.registry import Mean, Values

WHOSE: Mapping[Kind, str] = {  # the facts whose neurons are a control, as definitions say it
    "relation": "a fact of the same relation with another subject and another answer",
    "subject": "a fact of the same subject with another relation and another answer",
    "other": "a fact with another subject, another relation and another answer",
    "answer": "a fact of another subject with the same answer",
}


def drop(mean: Mean, column: str) -> Values:
    """1 − mean P(edited) / mean P: a ratio of means inside each relation."""
    return 1 - mean(column) / mean("probability")
