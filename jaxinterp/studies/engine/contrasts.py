"""What a study's runs say of its hypotheses; imports no JAX."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from jaxinterp.studies.engine.config import Hypothesis, Level, StudyConfig
from jaxinterp.studies.engine.run import Result
from jaxinterp.studies.statistics import Effect, effect_of, holm

ALPHA = 0.05  # of wrong verdicts among all hypotheses of a study, supported and refuted ones together
POWER = 0.8  # with which the smallest detectable effect would be seen


@dataclasses.dataclass(frozen=True)
class Finding:
    """A hypothesis and what became of it."""

    hypothesis: Hypothesis
    verdict: Literal["supported", "refuted", "undecided"]
    because: str
    effect: Effect | None  # metric(after) − metric(before); None without a pair
    p: float  # two-sided over supported and refuted, adjusted by Holm over the study's hypotheses; 1 without two seeds
    n_pairs: int  # of runs that are equal in all but the factor


def findings(config: StudyConfig, results: Sequence[Result]) -> list[Finding]:
    """The verdict on each hypothesis.

    Runs that are equal in their seed and in all factors but one are paired. Their differences are averaged within each
    seed, and seeds are what the interval is over (`studies.statistics.effect_of`). *higher* is supported where the
    change is shown to be above the margin and refuted where it is shown to be below it; *lower* the same the other way
    round; *same* is supported where the change is shown to lie inside ± margin (two one-sided tests) and refuted where
    it is shown to lie outside. Shown means that 2 · min(p_supported, p_refuted), adjusted by Holm over all hypotheses,
    is below `ALPHA`. One seed says nothing of others: its verdict is undecided.
    """
    paired = [changes(results, h.factor, h.before, h.after, h.metric) for h in config.hypotheses]
    effects = [effect_of(change, 0.95) if len(change) else None for change, _ in paired]
    ends = [_ends(h, e) if e is not None else (1.0, 1.0) for h, e in zip(config.hypotheses, effects, strict=True)]
    adjusted = holm([min(1.0, 2 * min(of)) for of in ends])
    found = []
    for hypothesis, effect, (for_it, against), p, (_, n_pairs) in zip(
        config.hypotheses, effects, ends, adjusted, paired, strict=True
    ):
        decided = p < ALPHA
        verdict = ("supported" if for_it < against else "refuted") if decided else "undecided"
        found.append(Finding(hypothesis, verdict, _because(effect, decided), effect, p, n_pairs))
    return found


def _because(effect: Effect | None, decided: bool) -> str:
    if effect is None:
        return "no two runs differ in this factor alone"
    if effect.n_seeds < 2:
        return "one seed says nothing of others"
    if not math.isfinite(effect.error):
        return "the spread over facts is not known"
    return "the interval decides" if decided else "the interval is too wide"


def _ends(hypothesis: Hypothesis, effect: Effect) -> tuple[float, float]:
    """One-sided p-values of the claim's contrary, and of the claim."""
    margin = hypothesis.margin
    if effect.n_seeds < 2 or not math.isfinite(effect.error):
        return 1.0, 1.0
    if hypothesis.direction == "higher":
        return effect.above(margin), effect.below(margin)
    if hypothesis.direction == "lower":
        return effect.below(-margin), effect.above(-margin)
    return max(effect.above(-margin), effect.below(margin)), min(effect.below(-margin), effect.above(margin))


def changes(
    results: Sequence[Result], factor: str, before: Level, after: Level, metric: str
) -> tuple[Float[np.ndarray, "seeds samples"], int]:
    """metric(after) − metric(before) of each seed, a mean over pairs of runs that differ in one factor alone.

    Returns:
      A row a seed that has a pair: the estimate, and its replicates over facts; and the number of pairs.
    """
    runs: dict[tuple, dict[str, np.ndarray]] = {}
    for result in results:
        if math.isfinite(result.values.get(metric, math.nan)):
            others = tuple(sorted((name, str(level)) for name, level in result.point.items() if name != factor))
            runs.setdefault((result.seed, others), {})[str(result.point[factor])] = result.samples[metric]
    pairs: dict[int, list[np.ndarray]] = {}
    for (seed, _), by_level in runs.items():
        if str(before) in by_level and str(after) in by_level:
            pairs.setdefault(seed, []).append(by_level[str(after)] - by_level[str(before)])
    rows = [np.mean(of, axis=0) for _, of in sorted(pairs.items())]
    return np.array(rows) if rows else np.zeros((0, 0)), sum(map(len, pairs.values()))
