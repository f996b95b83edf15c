"""How often the verdict of an audit that was made errs, and how often it finds what is there.

Audits are simulated with its own seeds, spreads and correlations, and changes that are put in their place; the rule
itself judges them. Imports no JAX.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxinterp.studies.audit.verdict import Criteria, Outcome, Samples, Scale, audited
from jaxinterp.studies.statistics import Share, share

REPLICATES = 100  # of simulated samples over facts; more change nothing
CERTAIN = 1e3  # a rise that no test misses, in smallest effects
FOUND = 2.0  # the rise whose discovery is reported, in smallest effects


class Spread(NamedTuple):
    """How the changes of M metrics vary in an audit that was made, in their units."""

    names: tuple[str, ...]
    plain: Float[np.ndarray, " M"]  # means of the plain models
    seeds: Float[np.ndarray, "seeds M"]  # root of the covariance over pairs of seeds: normal numbers times it are seeds
    facts: Float[np.ndarray, "replicates M"]  # deviations of the replicates of the mean over seeds

    def draw(
        self, change: Float[np.ndarray, " M"], rng: np.random.Generator
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Samples of two groups of models, of as many seeds; the first are the plain ones' means, without noise."""
        n_seeds, n_replicates = len(self.seeds), len(self.facts)
        of_seed = rng.standard_normal((n_seeds, n_seeds)) @ self.seeds
        of_fact = rng.standard_normal(n_replicates) @ self.facts / math.sqrt(n_replicates - 1)
        replicates = np.concatenate([np.zeros((1, len(self.names))), self.facts])
        samples = self.plain + change + of_fact + of_seed[:, None] + replicates[None]
        before = {name: np.full(samples.shape[:2], self.plain[i]) for i, name in enumerate(self.names)}
        return before, {name: samples[..., i] for i, name in enumerate(self.names)}


def spread_of(before: Samples, after: Samples, names: Sequence[str]) -> Spread:
    """The spread of the changes between two groups; what has no value does not vary."""
    n = min(REPLICATES + 1, *(before[name].shape[1] for name in names))
    change = np.stack([(after[name] - before[name])[:, :n] for name in names], axis=-1)
    n_seeds, mean = len(change), change.mean(0)
    known = np.isfinite(mean[1:])
    centre = np.where(known, mean[1:], 0).sum(0) / np.maximum(known.sum(0), 1)
    return Spread(
        tuple(names),
        np.nan_to_num(np.array([before[name][:, 0].mean() for name in names])),
        np.nan_to_num(change[:, 0] - mean[0]) / math.sqrt(n_seeds - 1),
        np.where(known, mean[1:] - centre, 0),
    )


def rates_of_audit(
    before: Samples,
    after: Samples,
    scales: Mapping[str, Scale],
    criteria: Criteria,
    *,
    simulations: int = 300,
    seed: int = 0,
) -> dict[str, Share]:
    """Error rates and power of a verdict in its own situation.

    Seeds and facts are drawn from normal distributions with the covariances that were measured, at the plain levels
    that were measured. The trained metric rises for certain and no ability changes: nothing but the families stands in
    the way of a verdict.

    Args:
      before, after, scales, criteria: as `audited` takes them.
      simulations: of each of the four truths.
      seed: of the simulation.
    Returns:
      Four shares; the families that rise are chosen anew in each simulation, of those with room:
      "improved_wrongly": *improved* is said where one family less than a majority rises for certain, the others not;
      "Goodharted_wrongly": *Goodharted*, where a bare majority rises by exactly its smallest effect, the others not;
      "improved_found": *improved*, where all rise by `FOUND` smallest effects;
      "Goodharted_found": *Goodharted*, where none rises.
    """
    audit = audited(before, after, scales, criteria)
    valued = [name for name in criteria.independent if audit.set_aside.get(name, "no room") == "no room"]
    spread = spread_of(before, after, (criteria.trained, *valued, *criteria.ability))
    with_room = [name for name, family in audit.families.items() if family.rise is not None]
    majority = len(with_room) // 2 + 1
    truths: dict[str, tuple[Outcome, list[float]]] = {
        "improved_wrongly": ("improved", [CERTAIN] * (majority - 1)),
        "Goodharted_wrongly": ("Goodharted", [1.0] * majority),
        "improved_found": ("improved", [FOUND] * len(with_room)),
        "Goodharted_found": ("Goodharted", []),
    }
    rng = np.random.default_rng(seed)
    rates = {}
    for truth, (outcome, rises) in truths.items():
        count = 0
        for _ in range(simulations):
            change = {criteria.trained: criteria.least + CERTAIN}
            for family, rise in zip(rng.permutation(with_room), rises, strict=False):
                counted = audit.families[family].counted
                change |= {name: rise * criteria.smallest_effect(name) for name in counted}
            towards = {name: -x if scales[name].better == "lower" else x for name, x in change.items()}
            groups = spread.draw(np.array([towards.get(name, 0.0) for name in spread.names]), rng)
            count += audited(*groups, scales, criteria).verdict == outcome
        rates[truth] = share(count, simulations)
    return rates
