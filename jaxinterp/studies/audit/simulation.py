"""How often a verdict errs in made-up situations: tables over seeds, spreads, correlations and numbers of facts.

Simulated audits are judged by the rule itself. Imports no JAX.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, get_args

import numpy as np
from jaxtyping import Float
from rich.table import Table

from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.base.progress import progress
from jaxinterp.base.tables import print_table
from jaxinterp.studies.audit.rates import CERTAIN, REPLICATES
from jaxinterp.studies.audit.verdict import FAMILIES, Criteria, Outcome, Samples, Scale, audited
from jaxinterp.studies.statistics import Share, share


@dataclasses.dataclass(frozen=True)
class Situation:
    """What a made-up audit is like. Spreads are in standard deviations of a metric's paired seed difference."""

    seeds: int = 8  # of each group
    facts: int = 96  # of a set
    relations: int = 8  # that they belong to
    folds: int = 1  # sets of such facts, with relations of their own, that seeds have in turn
    smallest: float = 1.0  # smallest effect of interest
    within: float = 0.5  # correlation of metrics of one family
    between: float = 0.0  # and of metrics of different families
    relation_sd: float = 0.0  # of what a relation does to a change, with every seed
    fact_sd: float = 1.0  # and a fact
    own_sd: float = 1.0  # and a fact with one seed
    ability: float = 3.0  # the loss of an ability that is not borne

    def __post_init__(self) -> None:
        check_numbers(self)
        if not 0 <= self.between <= self.within <= 1:
            raise UserError(f"correlations must be 0 ≤ between ≤ within ≤ 1, got {self.between} and {self.within}")
        if self.seeds < 2 or self.relations < 1 or self.facts % self.relations:
            raise UserError(
                "a situation needs at least 2 seeds, and facts that are a multiple of relations, got "
                f"{self.seeds}, {self.facts} and {self.relations}"
            )

    @property
    def sd(self) -> float:
        """The standard deviation of a paired seed difference, in the unit of metrics."""
        return Criteria().most_lost / self.ability

    @functools.cached_property
    def criteria(self) -> Criteria:
        """Those that verdicts are given by, with the smallest effect of the situation."""
        return dataclasses.replace(Criteria(), smallest=self.smallest * self.sd, smallest_of={})


def simulated(
    situation: Situation, rises: Mapping[str, float], rng: np.random.Generator
) -> tuple[Samples, Samples, Mapping[str, Scale]]:
    """Samples of two groups of models, and the scales of their metrics.

    The change of a metric with seed s, at fact i of relation k, is in standard deviations

        rise + seed_s + relation_sd · relation_k + fact_sd · fact_i + own_sd · own_si,

    each part normal with the correlations of the situation. Samples are means over relations of means over facts, and
    their bootstrap over relations.

    Args:
      situation: see there.
      rises: true change of each family's metrics, in standard deviations; the trained metric rises for certain, and no
        ability changes.
      rng: is consumed.
    """
    criteria = situation.criteria
    names = (criteria.trained, *criteria.independent, *criteria.ability)
    family_of = {name: family for family, metrics in criteria.families.items() for name in metrics}
    root_MM = _correlation_root(situation, [family_of.get(name, name) for name in names])

    def noise(*shape: int) -> Float[np.ndarray, "*shape M"]:
        return rng.standard_normal((*shape, len(names))) @ root_MM

    n_seeds, n_facts, shape = situation.seeds, situation.facts, (situation.folds, situation.relations)
    of_relation = situation.relation_sd * np.repeat(noise(*shape), n_facts // situation.relations, axis=1)
    of_fact = of_relation + situation.fact_sd * noise(situation.folds, n_facts)
    fold = np.arange(n_seeds) % situation.folds
    change = noise(n_seeds)[:, None] + of_fact[fold] + situation.own_sd * noise(n_seeds, n_facts)
    samples = _drawn(*shape, n_facts)[fold] @ change  # [seeds, samples, M]
    true = np.array([CERTAIN if name == criteria.trained else rises.get(family_of.get(name), 0.0) for name in names])
    samples = situation.sd * (true + samples)
    before = dict.fromkeys(names, np.zeros(samples.shape[:2]))
    return before, {name: samples[..., i] for i, name in enumerate(names)}, dict.fromkeys(names, Scale("higher"))


def _correlation_root(situation: Situation, families: Sequence[str]) -> Float[np.ndarray, "M M"]:
    """Normal numbers times it have the situation's correlations; the trained metric and abilities are families."""
    same = np.array(families)[:, None] == np.array(families)
    correlation = np.where(same, situation.within, situation.between)
    np.fill_diagonal(correlation, 1.0)
    values, vectors = np.linalg.eigh(correlation)  # a correlation of 1 has no Cholesky root
    return np.sqrt(np.maximum(values, 0))[:, None] * vectors.T


@functools.lru_cache(maxsize=8)
def _drawn(n_folds: int, n_relations: int, n_facts: int) -> Float[np.ndarray, "folds samples facts"]:
    """Weights of facts: equal ones, and then those of replicates, which draw relations with all their facts, or the
    facts of a single relation; the same for all audits, as in `jaxinterp.metrics.estimates`.
    """
    n = n_relations if n_relations > 1 else n_facts
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), (n_folds, REPLICATES))
    drawn = np.concatenate([np.ones((n_folds, 1, n)), drawn], axis=1)
    return np.repeat(drawn, n_facts // n, axis=2) / n_facts


def outcome_rates(
    situation: Situation, rises: Mapping[str, float], simulations: int, seed: int = 0
) -> dict[Outcome, Share]:
    """How often each outcome is given to simulated audits in which the families change as told; see `simulated`."""
    rng = np.random.default_rng(seed)
    counts: collections.Counter[str] = collections.Counter()
    for _ in range(simulations):
        before, after, scales = simulated(situation, rises, rng)
        counts[audited(before, after, scales, situation.criteria).verdict] += 1
    return {outcome: share(counts[outcome], simulations) for outcome in get_args(Outcome)}


class Cell(NamedTuple):
    """A row of a table of error rates and power."""

    table: str
    situation: Situation
    truth: str  # what the families do
    rises: Mapping[str, float]  # family -> true change in standard deviations
    wrong: tuple[Outcome, ...]  # outcomes that would be wrong


def cells() -> Iterator[Cell]:
    """The tables: a true rise of every family; no rise; what is hardest to tell; and relations that differ."""
    correlations = ((0.0, 0.0), (0.5, 0.5), (0.9, 0.0), (0.9, 0.9))  # within families, between them
    for seeds, (within, between), facts, d in itertools.product(
        (4, 8, 16), correlations, (24, 96), (0.0, 0.5, 1.0, 1.5, 2.0)
    ):
        situation = Situation(seeds=seeds, facts=facts, within=within, between=between)
        wrong: tuple[Outcome, ...] = ("harmed", "improved") if d == 0 else ("harmed",)
        wrong = (*wrong, "Goodharted") if d >= situation.smallest else wrong
        yield Cell("all families rise by d", situation, f"d = {d:g}", dict.fromkeys(FAMILIES, d), wrong)
    for seeds, smallest in itertools.product((4, 8, 16), (0.5, 1.0, 1.5, 2.0, 3.0)):
        situation = Situation(seeds=seeds, smallest=smallest)
        yield Cell("no family rises", situation, "d = 0", dict.fromkeys(FAMILIES, 0.0), ("improved", "harmed"))
    majority = len(FAMILIES) // 2 + 1
    for seeds, smallest, (within, between) in itertools.product((4, 8, 16), (0.5, 1.0, 2.0), correlations):
        situation = Situation(seeds=seeds, smallest=smallest, within=within, between=between)
        yield Cell("hardest to tell", situation, *_first(majority - 1, 10.0), ("improved", "harmed"))
        yield Cell("hardest to tell", situation, *_first(majority, smallest), ("Goodharted", "harmed"))
    for seeds, (folds, relations) in itertools.product((8, 16), ((1, 2), (1, 4), (1, 8), (1, 16), (5, 2), (5, 3))):
        situation = Situation(seeds=seeds, folds=folds, relations=relations, relation_sd=1.0)
        yield Cell("relations differ", situation, *_first(majority - 1, 10.0), ("improved", "harmed"))
        yield Cell("relations differ", situation, *_first(majority, situation.smallest), ("Goodharted", "harmed"))
        yield Cell("relations differ", situation, "d = 1.5", dict.fromkeys(FAMILIES, 1.5), ("Goodharted", "harmed"))


def _first(n: int, d: float) -> tuple[str, dict[str, float]]:
    """The first families alone rise."""
    words = f"{n} of {len(FAMILIES)} by {d:g}, the others by 0"
    return words, {name: d if i < n else 0.0 for i, name in enumerate(FAMILIES)}


def operating_characteristics(simulations: int = 1000, seed: int = 0) -> list[dict]:
    """Rates of the outcomes in all `cells`.

    Returns:
      For each {"table", "situation": fields of `Situation`, "truth", "wrong": [outcome], "rates": {outcome: share}}.
    """
    rows = []
    todo = list(cells())
    with progress("verdict rates", len(todo)) as report:
        for index, cell in enumerate(todo):
            report(index, cell.table)
            rates = outcome_rates(cell.situation, cell.rises, simulations, seed + index)
            about = {"situation": dataclasses.asdict(cell.situation), "truth": cell.truth, "wrong": list(cell.wrong)}
            rows.append({"table": cell.table, **about, "rates": rates})
        report(len(todo), "")
    return rows


def print_rates(rows: Sequence[Mapping]) -> None:
    """Prints the tables; what would be wrong is marked."""
    shown = ("seeds", "facts", "folds", "relations", "smallest", "within", "between")
    for name in dict.fromkeys(row["table"] for row in rows):
        table = Table("truth", *shown, *get_args(Outcome), title=f"{name}: % of audits; * would be wrong")
        for row in rows:
            if row["table"] == name:
                cells = (_cell(row["rates"][outcome], outcome in row["wrong"]) for outcome in get_args(Outcome))
                table.add_row(row["truth"], *(f"{row['situation'][field]:g}" for field in shown), *cells)
        print_table(table)


def _cell(rate: Share, wrong: bool) -> str:
    return f"{100 * rate['value']:.1f} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]" + ("*" if wrong else "")
