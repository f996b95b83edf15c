"""A change measured in every relation by every seed, where both are draws; imports no JAX."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from jaxinterp.base.errors import UserError
from jaxinterp.studies.statistics import Effect


@dataclasses.dataclass(frozen=True)
class Crossed(Effect):
    """A mean change over S seeds and R relations, and what it varies by; `fact_error` is not used, and 0."""

    relation_sd: float = 0.0  # standard deviation of relations' own changes
    rest_sd: float = 0.0  # of what a seed and a relation do together, and of noise
    n_relations: int = 2

    @property
    def error(self) -> float:
        """Standard error, √(seed_sd² / S + relation_sd² / R + rest_sd² / SR)."""
        of_both = self.rest_sd**2 / (self.n_seeds * self.n_relations)
        return math.sqrt(self.seed_sd**2 / self.n_seeds + self.relation_sd**2 / self.n_relations + of_both)

    @property
    def freedom(self) -> float:
        """Satterthwaite's degrees of freedom of the three mean squares; S − 1 where nothing varies."""
        n_seeds, n_relations, rest = self.n_seeds, self.n_relations, self.rest_sd**2
        seeds, relations = rest + n_relations * self.seed_sd**2, rest + n_seeds * self.relation_sd**2
        parts = seeds**2 / (n_seeds - 1) + relations**2 / (n_relations - 1)
        parts += rest**2 / ((n_seeds - 1) * (n_relations - 1))
        return (seeds + relations - rest) ** 2 / parts if parts else n_seeds - 1.0


def crossed_effect(change_SR: Float[np.ndarray, "S R"], *, level: float = 0.95) -> Crossed:
    """The mean of d_sr = μ + a_s + b_r + e_sr with random a, b and e, by two-way analysis of variance.

    It is the mixed model metric ~ arm + (arm | seed) + (arm | relation) in differences between two arms: seeds and
    relations each have their own change, so that the interval is for other seeds and other relations. With random
    intercepts alone, (1 | seed) + (1 | relation), it would be for these ones. From the mean squares of seeds, relations
    and the rest, σ_a² = (MS_a − MS_e) / R, σ_b² = (MS_b − MS_e) / S, σ_e² = MS_e, and 0 where negative; Searle,
    Casella, McCulloch 1992, ch. 4. REML gives the same where none is negative.

    Raises:
      UserError: if there are fewer than two seeds or relations, or a value is missing.
    """
    n_seeds, n_relations = change_SR.shape
    if min(change_SR.shape) < 2 or not np.isfinite(change_SR).all():
        raise UserError(f"seeds and relations need two or more each, all measured, got {change_SR.shape}")
    mean, of_seeds, of_relations = change_SR.mean(), change_SR.mean(1), change_SR.mean(0)
    rest = np.square(change_SR - of_seeds[:, None] - of_relations + mean).sum() / ((n_seeds - 1) * (n_relations - 1))
    variances = [
        max(0.0, float(of_seeds.var(ddof=1) - rest / n_relations)),
        max(0.0, float(of_relations.var(ddof=1) - rest / n_seeds)),
        float(rest),
    ]
    seed_sd, relation_sd, rest_sd = map(math.sqrt, variances)
    return Crossed(float(mean), seed_sd, 0.0, n_seeds, level, relation_sd, rest_sd, n_relations)
