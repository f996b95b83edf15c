"""Figures over seeds: means with intervals, and where a single seed's figure is expected. What a README may quote."""

from collections.abc import Mapping, Sequence

import numpy as np
import scipy.stats
from jaxtyping import Float

from jaxinterp.metrics.registry import get_metric
from jaxinterp.studies.verdict import paired_effect

LEAST_SEEDS = 2  # of which a spread can be said


def published(
    measured: Mapping[str, Sequence[Mapping[str, Mapping[str, np.ndarray]] | None]],
    sets: Sequence[str],
    metrics: Sequence[str],
) -> dict[str, dict[str, dict[str, dict[str, float | int]]]]:
    """Group -> set -> metric -> figure, of groups of models that differ by their seed.

    Args:
      measured: group -> models, set -> metric -> samples each (the estimate, then replicates over relations and facts);
        None is a run that failed.
      sets, metrics: names; a metric that not all models of a group have on a set is left out.
    Returns:
      Figures as `over_seeds` gives them.
    """
    found: dict[str, dict] = {}
    for group, models in measured.items():
        present = [model for model in models if model is not None]
        if len(present) < LEAST_SEEDS:
            continue
        found[group] = {
            set_name: {
                metric: over_seeds(np.stack([model[set_name][metric] for model in present]), get_metric(metric).range)
                for metric in metrics
                if all(metric in model[set_name] for model in present)
            }
            for set_name in sets
        }
    return found


def over_seeds(
    samples: Float[np.ndarray, "seeds samples"], limits: tuple[float, float], level: float = 0.95
) -> dict[str, float | int]:
    """{"value", "low", "high", "from", "to", "seeds"}: the mean over seeds with its interval, over seeds, relations and
    facts (see `jaxinterp.studies.verdict.paired_effect`); and mean ± t · SD · √(1 + 1/n), between which the estimate of
    one more seed lies with probability `level`, if seeds are normal. Both are cut to the metric's limits.
    """
    effect = paired_effect(np.zeros_like(samples), samples, level=level)
    estimates = samples[:, 0]
    n = len(estimates)
    half = scipy.stats.t(n - 1).ppf((1 + level) / 2) * estimates.std(ddof=1) * np.sqrt(1 + 1 / n)
    value, low, high = effect.value, effect.low, effect.high
    lowest, highest = min(limits[0], value), max(limits[1], value)
    return {
        "value": float(value),
        "low": float(max(low, lowest)),
        "high": float(min(high, highest)),
        "from": float(max(value - half, lowest)),
        "to": float(min(value + half, highest)),
        "seeds": n,
    }
