"""Suppressability and its companions: what switching neurons off or doubling them does to the answers."""

import numpy as np

from jaxinterp.metrics.registry import Mean, metric


def _drop(mean: Mean, column: str) -> np.ndarray:
    return 1 - mean(column) / mean("probability")


@metric("suppressability", needs=("probability", "suppressed"), unit="share of P")
def suppressability(mean: Mean) -> np.ndarray:
    """S = 1 − mean P(own knowledge neurons off) / mean P. 1: the answers are gone; 0: nothing happens."""
    return _drop(mean, "suppressed")


@metric("control_drop", needs=("probability", "control"), unit="share of P")
def control_drop(mean: Mean) -> np.ndarray:
    """C = 1 − mean P(another fact's knowledge neurons off) / mean P; other subject, other relation. 0 is specific."""
    return _drop(mean, "control")


@metric("random_drop", needs=("probability", "random"), unit="share of P")
def random_drop(mean: Mean) -> np.ndarray:
    """1 − mean P(as many random neurons of each layer off) / mean P."""
    return _drop(mean, "random")


@metric("selective", needs=("probability", "suppressed", "control"), unit="share of P")
def selective(mean: Mean) -> np.ndarray:
    """S − C, selective suppressability."""
    return _drop(mean, "suppressed") - _drop(mean, "control")


@metric("amplification", needs=("probability", "amplified"), unit="share of P")
def amplification(mean: Mean) -> np.ndarray:
    """mean P(own knowledge neurons doubled) / mean P − 1; at most 1 / mean P − 1."""
    return -_drop(mean, "amplified")


@metric("mean_of_ratios", needs=("suppressed_ratio",), unit="share of P")
def mean_of_ratios(mean: Mean) -> np.ndarray:
    """1 − mean of P(own off) / P: suppressability with every answer weighing the same, however improbable."""
    return 1 - mean("suppressed_ratio")


@metric("log_probability_drop", needs=("log_probability", "suppressed_log_probability"), unit="nats")
def log_probability_drop(mean: Mean) -> np.ndarray:
    """mean log P − mean log P(own off)."""
    return mean("log_probability") - mean("suppressed_log_probability")


@metric("logit_drop", needs=("log_odds", "suppressed_log_odds"), unit="nats")
def logit_drop(mean: Mean) -> np.ndarray:
    """mean log P/(1−P) − mean log P/(1−P)(own off): does not saturate where P is near 1."""
    return mean("log_odds") - mean("suppressed_log_odds")


@metric("ablation_suppressability", needs=("probability", "ablation_suppressed"), unit="share of P")
def ablation_suppressability(mean: Mean) -> np.ndarray:
    """S with the neurons chosen by exact single-neuron ablation: the second opinion."""
    return _drop(mean, "ablation_suppressed")


@metric("ablation_control_drop", needs=("probability", "ablation_control"), unit="share of P")
def ablation_control_drop(mean: Mean) -> np.ndarray:
    """C with the neurons chosen by exact single-neuron ablation."""
    return _drop(mean, "ablation_control")


@metric("ablation_overlap", needs=("ablation_overlap",), unit="share of k")
def ablation_overlap(mean: Mean) -> np.ndarray:
    """Share of the knowledge neurons by integrated gradients that exact ablation chooses as well."""
    return mean("ablation_overlap")
