"""Suppressability and its companions: what switching neurons off or doubling them does to the answers."""

import numpy as np

from jaxinterp.metrics.drops import drop
from jaxinterp.metrics.registry import Mean, Values, metric


@metric(
    "suppressability",
    needs=("probability", "suppressed"),
    title="Suppressability",
    symbol="S",
    unit="%",
    range=(-np.inf, 1.0),
    better="higher",
    source="Dai et al. 2021, averaged",
)
def suppressability(mean: Mean) -> Values:
    """1 − mean P(a fact's own knowledge neurons off) / mean P: the share of the answers' probability that is lost when
    each fact's own neurons are switched off. 100%: the answers are gone; 0%: nothing happened.
    """
    return drop(mean, "suppressed")


@metric(
    "control_drop",
    needs=("probability", "control"),
    title="Control drop",
    symbol="C",
    unit="%",
    range=(-np.inf, 1.0),
    better="lower",
    source="Dai et al. 2021, unrelated facts",
)
def control_drop(mean: Mean) -> Values:
    """The same share when the knowledge neurons of another fact, with another subject and another relation, are
    switched off instead. Near 0% the neurons are specific to their fact; a high S with a high C only says that the
    network has neurons that everything depends on.
    """
    return drop(mean, "control")


@metric(
    "random_drop", needs=("probability", "random"), title="Random drop", unit="%", range=(-np.inf, 1.0), better="lower"
)
def random_drop(mean: Mean) -> Values:
    """The same share when as many random neurons, layer by layer, are switched off."""
    return drop(mean, "random")


@metric(
    "selective",
    needs=("probability", "suppressed", "control"),
    title="Selective suppressability",
    symbol="S − C",
    unit="%",
    better="higher",
)
def selective(mean: Mean) -> Values:
    """S − C."""
    return drop(mean, "suppressed") - drop(mean, "control")


@metric(
    "amplification",
    needs=("probability", "amplified"),
    title="Amplification",
    unit="%",
    signed=True,
    range=(-1.0, np.inf),
    better="higher",
    source="Dai et al. 2021",
)
def amplification(mean: Mean) -> Values:
    """mean P(own knowledge neurons doubled) / mean P − 1; it cannot exceed 1 / mean P − 1."""
    return -drop(mean, "amplified")


@metric(
    "mean_of_ratios",
    needs=("suppressed_ratio",),
    title="Mean of ratios",
    unit="%",
    range=(-np.inf, 1.0),
    better="higher",
)
def mean_of_ratios(mean: Mean) -> Values:
    """1 − mean of P(own neurons off) / P: suppressability with every answer weighing the same, however improbable."""
    return 1 - mean("suppressed_ratio")


@metric(
    "log_probability_drop",
    needs=("log_probability", "suppressed_log_probability"),
    title="Log-probability drop",
    unit="nats",
    signed=True,
    better="higher",
)
def log_probability_drop(mean: Mean) -> Values:
    """mean log P − mean log P(own neurons off)."""
    return mean("log_probability") - mean("suppressed_log_probability")


@metric(
    "logit_drop",
    needs=("log_odds", "suppressed_log_odds"),
    title="Logit drop",
    unit="nats",
    signed=True,
    better="higher",
)
def logit_drop(mean: Mean) -> Values:
    """The same with log P / (1 − P), which saturates later where P is near 1 (at 16 nats in float32)."""
    return mean("log_odds") - mean("suppressed_log_odds")
