"""What the model can do, untouched."""

import numpy as np

from jaxinterp.metrics.registry import Mean, metric


@metric("probability", needs=("probability",), unit="probability")
def probability(mean: Mean) -> np.ndarray:
    """Mean probability of the answers, all tokens."""
    return mean("probability")


@metric("recall", needs=("correct",), unit="share of answers")
def recall(mean: Mean) -> np.ndarray:
    """Share of answers whose every token is the most probable one."""
    return mean("correct")


@metric("cross_entropy", needs=("sentence_nll", "sentence_tokens"), unit="nats a token")
def cross_entropy(mean: Mean) -> np.ndarray:
    """Mean cross-entropy over the tokens of the sentences, prompts and answers."""
    return mean("sentence_nll") / mean("sentence_tokens")


@metric("completeness_residual", needs=("residual",), unit="probability")
def completeness_residual(mean: Mean) -> np.ndarray:
    """Mean |Σ A − (P(1) − P(0))| of the attribution, over layers and answer tokens."""
    return mean("residual")
