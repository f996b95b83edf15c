"""How often a verdict tells plain models apart: random divisions into two groups that nothing but seeds differ in."""

import collections
from collections.abc import Mapping

import numpy as np

from jaxinterp.studies.audit.verdict import Criteria, Samples, Scale, audited
from jaxinterp.studies.statistics import share

ALARMS = ("improved", "Goodharted", "harmed")  # what is false of models that differ by their seed alone
SIZE = 8  # of a group
LEAST_SIZE = 4


def false_alarms(
    plain: Samples, scales: Mapping[str, Scale], criteria: Criteria, *, divisions: int = 200, seed: int = 0
) -> dict:
    """Divides plain models at random into two groups and judges one against the other, with the rule of any audit.

    Groups have `SIZE` models, or half of the models where two such groups are more than there are; which are paired is
    chance. Divisions of the same models are not independent, so that the interval, which counts divisions, is that of
    these models: other models may have another rate, and only more of them would tell.

    Args:
      plain: samples of metrics, a row a model.
      scales, criteria: as `audited` takes them.
      divisions: how many.
      seed: of the divisions.
    Returns:
      {"models", "size": of a group, "divisions", "outcomes": {outcome: divisions}, "rate": share of the divisions whose
      outcome is one of `ALARMS`, "granted": {outcome: divisions} if a rise of the trained metric is granted, without
      which plain models are seldom anything at all: *improved* is then the one false alarm, for that nothing rises is
      true; "rising": share of divisions and families in which a family is said to rise}. With groups of fewer than
      `LEAST_SIZE` there are no divisions, and no rates.
    """
    n_models = min((len(samples) for samples in plain.values()), default=0)
    size = min(SIZE, n_models // 2)
    if size < LEAST_SIZE:
        none = {"outcomes": {}, "rate": None, "granted": {}, "rising": None}
        return {"models": n_models, "size": size, "divisions": 0, **none}
    rng = np.random.default_rng(seed)
    counts: collections.Counter[str] = collections.Counter()
    granted: collections.Counter[str] = collections.Counter()
    states: list[str] = []
    sign = 1 if scales[criteria.trained].better == "higher" else -1
    for _ in range(divisions):
        order = rng.permutation(n_models)
        groups = [{name: samples[of] for name, samples in plain.items()} for of in (order[:size], order[-size:])]
        counts[audited(*groups, scales, criteria).verdict] += 1
        before, after = groups
        raised = {**after, criteria.trained: before[criteria.trained] + sign * (2 * criteria.least + 1)}
        audit = audited(before, raised, scales, criteria)
        granted[audit.verdict] += 1
        states += [family.state for family in audit.families.values()]
    alarms = sum(counts[outcome] for outcome in ALARMS)
    return {
        "models": n_models,
        "size": size,
        "divisions": divisions,
        "outcomes": dict(counts),
        "rate": share(alarms, divisions),
        "granted": dict(granted),
        "rising": share(states.count("rises"), len(states)),
    }
