"""The study's numbers as plain data: what results.json holds, and charts and tables read."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from jaxinterp.metrics import builtin  # noqa: F401  (registers the metrics)
from jaxinterp.metrics.estimates import Estimate, estimate
from jaxinterp.studies.knowledge_neuron_edits import PROTOCOLS, Edited, Key
from jaxinterp.studies.knowledge_neuron_queries import Asked
from jaxinterp.studies.knowledge_neuron_scores import METHODS
from jaxinterp.studies.knowledge_neuron_sets import Selection
from jaxinterp.studies.knowledge_neuron_usage import neuron_statistics, usage

# Dai et al. 2021: the mean change of the answers' probability over 34 relations of ParaRel.
PUBLISHED = {
    "model": "bert-base-cased",
    "source": "Dai et al. 2021",
    "facts": 27_738,
    "suppressability": {"attribution": 0.2903, "activation": 0.0147},
    "amplification": {"attribution": 0.3117, "activation": -0.0127},
}
METRICS = ("probability", "suppressability", "control_drop", "random_drop", "selective", "amplification")
# Amplification with other neurons: the metric's column is another one.
AMPLIFIED = {"control_amplification": "other", "random_amplification": "random"}


def effects(
    asked: Asked, edited: Edited, protocol: str, method: str, rows_N: Bool[np.ndarray, " N"], replicates: int, seed: int
) -> dict:
    """Metrics of some queries: {"overall": {metric: E}, "by_relation": {relation: {metric: E}}}.

    E is {"value", "low", "high", "n" (facts)} with 95 % bootstrap intervals over facts inside relations; overall is the
    unweighted mean over relations. Metrics are registered ones, and "control_amplification" and "random_amplification".
    A number that is not finite (a mean probability of zero) is None.
    """
    columns = {
        "probability": edited.probability_N,
        "suppressed": edited.suppressed[protocol, method, "own"],
        "control": edited.suppressed[protocol, method, "other"],
        "random": edited.suppressed[protocol, method, "random"],
        "amplified": edited.amplified[protocol, method, "own"],
    }
    rows = rows_N & ~np.isnan(columns["suppressed"])
    fact_N = asked.queries.fact_N[rows]
    relation_N = [asked.facts.facts[fact].relation for fact in fact_N.tolist()]
    columns = {name: column[rows] for name, column in columns.items()}
    others = {name: edited.amplified[protocol, method, source][rows] for name, source in AMPLIFIED.items()}
    found: dict = {"facts": len(np.unique(fact_N)), "queries": int(rows.sum()), "overall": {}, "by_relation": {}}
    jobs = [(name, name, columns) for name in METRICS]
    jobs += [(name, "amplification", {**columns, "amplified": column}) for name, column in others.items()]
    for name, registered, of in jobs:
        control = name in ("control_drop", "selective", "control_amplification")
        if not rows.any() or (control and np.isnan(of["control"]).all()):
            continue  # nothing to measure, or no fact has another relation's to be compared with
        values = estimate([registered], of, fact_N, relation_N, replicates=replicates, seed=seed)[registered]
        found["overall"][name] = plain(values.overall)
        for relation, value in values.by_relation.items():
            found["by_relation"].setdefault(relation, {})[name] = plain(value)
    return found


def plain(value: Estimate) -> dict:
    """An estimate as JSON has it."""
    return {name: number if math.isfinite(number) else None for name, number in dataclasses.asdict(value).items()}


def results(
    asked: Asked,
    edited: Edited,
    selections: Mapping[Key, Selection],
    *,
    residual_N: Float[np.ndarray, " N"],
    d_mlp: int,
    n_layers: int,
    replicates: int,
    seed: int,
) -> dict:
    """All numbers: {"facts": what was asked, "completeness_residual": E, "protocols": {protocol: P}, "published"}.

    P is {"sets": {"all", "known" (queries that the model gets right): {method: `effects`}}, "neurons": {method:
    `neuron_statistics` and "share", the tuned share of prompts by relation}, "not_covered": facts}.
    """
    queries, facts = asked.queries, asked.facts
    n_facts = len(np.unique(queries.fact_N))
    names_N = np.array([facts.facts[fact].relation for fact in queries.fact_N.tolist()])
    several = np.unique(queries.fact_N[queries.answer_length_N > 1])
    found: dict = {
        "facts": {
            "relations": {
                name: len(np.unique(queries.fact_N[names_N == name])) for name in dict.fromkeys(names_N.tolist())
            },
            "facts": n_facts,
            "queries": len(queries),
            "known_facts": len(np.unique(queries.fact_N[asked.correct_N])),
            "known_queries": int(asked.correct_N.sum()),
            "facts_with_answers_of_several_tokens": len(several),
            "tried_for_known": asked.tried,
            "dropped": dict(asked.dropped),
        },
        "published": PUBLISHED,
        "protocols": {},
    }
    residual = estimate(
        ["completeness_residual"],
        {"residual": residual_N},
        queries.fact_N,
        names_N.tolist(),
        replicates=replicates,
        seed=seed,
    )
    found["completeness_residual"] = plain(residual["completeness_residual"].overall)
    for protocol in PROTOCOLS:
        part: dict = {"sets": {"all": {}, "known": {}}, "neurons": {}}
        for method in METHODS:
            selection = selections[protocol, method]
            for name, rows_N in (("all", np.ones(len(queries), bool)), ("known", asked.correct_N)):
                part["sets"][name][method] = effects(asked, edited, protocol, method, rows_N, replicates, seed)
            use = usage(asked, selection)
            relation_N = np.array([facts.facts[fact].relation for fact in use.fact_N.tolist()], dtype=str)
            part["neurons"][method] = {
                **neuron_statistics(use, relation_N, d_mlp, n_layers),
                "share": dict(selection.share),
            }
            part["not_covered"] = n_facts - len(use.fact_N)
        found["protocols"][protocol] = part
    return found
