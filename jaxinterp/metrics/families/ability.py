"""What the model can do, untouched."""

import numpy as np

from jaxinterp.metrics.registry import Mean, Values, metric


@metric(
    "probability",
    needs=("probability",),
    title="Answer probability",
    symbol="P",
    unit="%",
    range=(0.0, 1.0),
    better="higher",
    masks="none",
)
def probability(mean: Mean) -> Values:
    """Mean probability P of the answers, all their tokens, untouched."""
    return mean("probability")


@metric("recall", needs=("correct",), title="Recall", unit="%", range=(0.0, 1.0), better="higher", masks="none")
def recall(mean: Mean) -> Values:
    """Share of answers of which every token is the most probable one."""
    return mean("correct")


@metric(
    "cross_entropy",
    needs=("sentence_nll", "sentence_tokens"),
    title="Cross-entropy",
    unit="nats per token",
    range=(0.0, np.inf),
    better="lower",
    masks="none",
)
def cross_entropy(mean: Mean) -> Values:
    """Mean over the tokens of the sentences, prompts and answers; lower is better."""
    return mean("sentence_nll") / mean("sentence_tokens")


@metric(
    "completeness_residual",
    needs=("residual",),
    title="Completeness residual",
    unit="probability",
    range=(0.0, np.inf),
    better="lower",
    masks="none",
    source="Sundararajan et al. 2017",
)
def completeness_residual(mean: Mean) -> Values:
    """Mean |Σ attribution − (P(gates 1) − P(gates 0))|: how far the numerical integral of the attribution is from
    exact, in units of probability.
    """
    return mean("residual")
