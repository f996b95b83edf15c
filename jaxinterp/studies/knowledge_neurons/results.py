"""The study's numbers: what results.json holds, and charts and tables read."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from jaxinterp.facts.controls import KINDS
from jaxinterp.metrics.estimates import Estimates, estimate
from jaxinterp.metrics.registry import is_measured
from jaxinterp.metrics.results import left_out_relations, plain
from jaxinterp.studies.knowledge_neurons.edits import SOURCES, Columns
from jaxinterp.studies.knowledge_neurons.queries import Asked
from jaxinterp.studies.knowledge_neurons.sets import Key
from jaxinterp.studies.knowledge_neurons.usage import Neurons

# Dai et al. 2021: the mean change of the answers' probability over 34 relations of ParaRel.
PUBLISHED = {
    "model": "bert-base-cased",
    "source": "Dai et al. 2021",
    "facts": 27_738,
    "suppressability": {"attribution": 0.2903, "activation": 0.0147},
    "amplification": {"attribution": 0.3117, "activation": -0.0127},
}
METRICS = (
    *("probability", "suppressability"),
    *(f"control_drop_{kind}{form}" for form in ("", "_one_sided", "_absolute") for kind in KINDS),
    *("control_drop", "selective", "random_drop", "amplification", "completeness_residual"),
)
# Amplification with other neurons: the metric's column is that of another source.
AMPLIFIED = {**{f"control_amplification_{kind}": kind for kind in KINDS}, "random_amplification": "random"}
Estimated = Mapping[str, Mapping]  # metric -> "value", "low", "high" (95 % interval) and "n" (facts); None: not known


@dataclasses.dataclass(frozen=True)
class Effects:
    """Metrics of some queries: registered ones, and those of `AMPLIFIED`; see `effects`."""

    facts: int
    queries: int
    overall: Estimated  # the unweighted mean over the relations that have the metric
    by_relation: Mapping[str, Estimated]
    left_out: Mapping[str, str]  # relation -> why overall figures lack it


@dataclasses.dataclass(frozen=True)
class Results:
    """All numbers of a study."""

    config: Mapping
    provenance: Mapping
    model: Mapping  # name, n_layers, d_mlp
    facts: Mapping  # what was asked and left out
    effects: Mapping[tuple[str, str, str], Effects]  # (protocol, "all" or "known" (answered right), method)
    neurons: Mapping[Key, Neurons]
    share: Mapping[Key, Mapping[str, float]]  # by relation, the share of prompts that the paper's tuning arrived at
    most_used: Mapping[str, Sequence[Mapping]]  # by protocol; see `usage.described_neurons`

    def not_covered(self, protocol: str) -> int:
        """How many facts the protocol cannot treat."""
        return self.facts["facts"] - self.neurons[protocol, "attribution"].facts

    def to_json(self) -> dict:
        """Plain data, and the published figures; keys of several parts are joined by slashes."""
        found = {**dataclasses.asdict(self), "published": PUBLISHED}
        for name in ("effects", "neurons", "share"):
            found[name] = {"/".join(key): value for key, value in found[name].items()}
        return found


def effects(asked: Asked, columns: Columns, rows_N: Bool[np.ndarray, " N"], replicates: int, seed: int) -> Effects:
    """Metrics of some queries with one selection's columns, as far as the selection covers them.

    One that no query has is left out, such as those of a kind of which there is no other fact. A value that there is
    none of (a share of a mean probability of 0), and the ends of an interval that was not estimated, are None.
    """
    rows = rows_N & ~np.isnan(columns["suppressed"])
    fact_N = asked.queries.fact_N[rows]
    relation_N = asked.relations(fact_N).tolist()
    columns = {name: column[rows].astype(float) for name, column in columns.items()}
    for kind in KINDS:
        change_N = columns["probability"] - columns[f"control_{kind}"]
        columns |= {f"control_{kind}_lost": np.maximum(change_N, 0), f"control_{kind}_moved": np.abs(change_N)}
    jobs = [(columns, {name: name for name in METRICS})]
    for name, source in AMPLIFIED.items():
        jobs.append(({**columns, "amplified": columns[SOURCES[source][1]]}, {"amplification": name}))
    estimates: dict[str, Estimates] = {}
    for of, named in jobs:
        there = {column: values for column, values in of.items() if not np.isnan(values).all()}
        metrics = [metric for metric in named if is_measured(metric, there)]
        values = estimate(metrics, there, fact_N, relation_N, replicates=replicates, seed=seed)
        estimates |= {named[metric]: value for metric, value in values.items()}
    by_relation: dict[str, dict] = {}
    for name, value in estimates.items():
        for relation, inside in value.by_relation.items():
            by_relation.setdefault(relation, {})[name] = plain(inside)
    overall = {name: plain(value.overall) for name, value in estimates.items()}
    left_out = left_out_relations({"": estimates}).get("", {})
    return Effects(len(np.unique(fact_N)), int(rows.sum()), overall, by_relation, left_out)


def all_effects(
    asked: Asked, columns: Mapping[Key, Columns], replicates: int, seed: int
) -> dict[tuple[str, str, str], Effects]:
    """The effects of every selection on all queries, and on those that the model gets right."""
    sets = {"all": np.ones(len(asked.queries), bool), "known": asked.correct_N}
    return {
        (protocol, name, method): effects(asked, of, rows_N, replicates, seed)
        for (protocol, method), of in columns.items()
        for name, rows_N in sets.items()
    }


def asked_counts(asked: Asked) -> dict:
    """What was asked, in numbers."""
    fact_N = np.unique(asked.queries.fact_N)
    return {
        "relations": dict(Counter(asked.relations(fact_N).tolist())),
        "facts": len(fact_N),
        "queries": len(asked.queries),
        "known_facts": len(np.unique(asked.queries.fact_N[asked.correct_N])),
        "known_queries": int(asked.correct_N.sum()),
        "facts_with_answers_of_several_tokens": len(np.unique(asked.queries.fact_N[asked.queries.answer_length_N > 1])),
        "tried_for_known": asked.tried,
        "dropped": dict(asked.dropped),
    }
