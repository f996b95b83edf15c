"""Suppressability and its companions: what switching neurons off or doubling them does to the answers."""

import numpy as np

from jaxinterp.metrics.registry import Mean, metric


def _drop(mean: Mean, column: str) -> np.ndarray:
    return 1 - mean(column) / mean("probability")


@metric("suppressability", needs=("probability", "suppressed"), title="Suppressability", symbol="S", unit="%")
def suppressability(mean: Mean) -> np.ndarray:
    """1 − mean P(a fact's own knowledge neurons off) / mean P: the share of the answers' probability that is lost when
    each fact's own neurons are switched off. 100%: the answers are gone; 0%: nothing happened.
    """
    return _drop(mean, "suppressed")


@metric("control_drop", needs=("probability", "control"), title="Control drop", symbol="C", unit="%")
def control_drop(mean: Mean) -> np.ndarray:
    """The same share when the knowledge neurons of another fact, with another subject and another relation, are
    switched off instead. Near 0% the neurons are specific to their fact; a high S with a high C only says that the
    network has neurons that everything depends on.
    """
    return _drop(mean, "control")


@metric("random_drop", needs=("probability", "random"), title="Random drop", unit="%")
def random_drop(mean: Mean) -> np.ndarray:
    """The same share when as many random neurons, layer by layer, are switched off."""
    return _drop(mean, "random")


@metric(
    "selective",
    needs=("probability", "suppressed", "control"),
    title="Selective suppressability",
    symbol="S − C",
    unit="%",
)
def selective(mean: Mean) -> np.ndarray:
    """S − C."""
    return _drop(mean, "suppressed") - _drop(mean, "control")


@metric("amplification", needs=("probability", "amplified"), title="Amplification", unit="%", signed=True)
def amplification(mean: Mean) -> np.ndarray:
    """mean P(own knowledge neurons doubled) / mean P − 1; it cannot exceed 1 / mean P − 1."""
    return -_drop(mean, "amplified")


@metric("mean_of_ratios", needs=("suppressed_ratio",), title="Mean of ratios", unit="%")
def mean_of_ratios(mean: Mean) -> np.ndarray:
    """1 − mean of P(own neurons off) / P: suppressability with every answer weighing the same, however improbable."""
    return 1 - mean("suppressed_ratio")


@metric(
    "log_probability_drop",
    needs=("log_probability", "suppressed_log_probability"),
    title="Log-probability drop",
    unit="nats",
    signed=True,
)
def log_probability_drop(mean: Mean) -> np.ndarray:
    """mean log P − mean log P(own neurons off)."""
    return mean("log_probability") - mean("suppressed_log_probability")


@metric("logit_drop", needs=("log_odds", "suppressed_log_odds"), title="Logit drop", unit="nats", signed=True)
def logit_drop(mean: Mean) -> np.ndarray:
    """The same with log P / (1 − P), which saturates later where P is near 1 (at 16 nats in float32)."""
    return mean("log_odds") - mean("suppressed_log_odds")


@metric("ablation_suppressability", needs=("probability", "ablation_suppressed"), title="S by exact ablation", unit="%")
def ablation_suppressability(mean: Mean) -> np.ndarray:
    """Suppressability when the neurons are chosen by switching off one neuron at a time instead of by integrated
    gradients: a second opinion on which neurons matter.
    """
    return _drop(mean, "ablation_suppressed")


@metric("ablation_control_drop", needs=("probability", "ablation_control"), title="C by exact ablation", unit="%")
def ablation_control_drop(mean: Mean) -> np.ndarray:
    """Control drop with the neurons chosen by exact ablation."""
    return _drop(mean, "ablation_control")


@metric("ablation_overlap", needs=("ablation_overlap",), title="Overlap", unit="%")
def ablation_overlap(mean: Mean) -> np.ndarray:
    """Share of the neurons chosen by integrated gradients that exact ablation chooses as well."""
    return mean("ablation_overlap")
