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
    """Mean probability P that the untouched model gives to the answers: of each, the product over all its tokens."""
    return mean("probability")


@metric("recall", needs=("correct",), title="Recall", unit="%", range=(0.0, 1.0), better="higher", masks="none")
def recall(mean: Mean) -> Values:
    """Share of the answers of which the untouched model gives every token the highest probability at its place."""
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
    """Mean −log P of the tokens of the sentences, of prompts and answers alike; lower is better."""
    return mean("sentence_nll") / mean("sentence_tokens")


@metric(
    "text_cross_entropy",
    needs=("text_nll", "text_tokens"),
    title="Cross-entropy of held-out text",
    unit="nats per token",
    range=(0.0, np.inf),
    better="lower",
    masks="none",
)
def text_cross_entropy(mean: Mean) -> Values:
    """Mean −log P of the tokens of documents that the model was not trained on; lower is better."""
    return mean("text_nll") / mean("text_tokens")


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
    """Mean |Σ attribution − (P(all gates 1) − P(all gates 0))|: how far the numerical integral of the attribution is
    from exact, in units of probability.
    """
    return mean("residual")
