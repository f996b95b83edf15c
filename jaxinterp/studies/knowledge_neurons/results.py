"""The study's numbers as plain data: what results.json holds, and charts and tables read."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from jaxinterp.facts.controls import KINDS
from jaxinterp.metrics.estimates import Estimates, estimate
from jaxinterp.metrics.registry import is_measured
from jaxinterp.metrics.results import left_out_relations, plain
from jaxinterp.studies.knowledge_neurons.edits import PROTOCOLS, SOURCES, Edited, Key
from jaxinterp.studies.knowledge_neurons.queries import Asked
from jaxinterp.studies.knowledge_neurons.scores import METHODS
from jaxinterp.studies.knowledge_neurons.sets import Selection
from jaxinterp.studies.knowledge_neurons.usage import neuron_statistics, usage

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
    *("control_drop", "selective", "random_drop", "amplification"),
)
# Amplification with other neurons: the metric's column is that of another source.
AMPLIFIED = {**{f"control_amplification_{kind}": kind for kind in KINDS}, "random_amplification": "random"}


def effects(
    asked: Asked, edited: Edited, protocol: str, method: str, rows_N: Bool[np.ndarray, " N"], replicates: int, seed: int
) -> dict:
    """Metrics of some queries: {"overall": {metric: E}, "by_relation": {relation: {metric: E}}, "left_out": {relation:
    why overall figures lack it}}.

    E is {"value", "low", "high", "n" (facts)} with 95 % intervals, see `estimate`; overall is the unweighted mean over
    the relations that have the metric. Metrics are registered ones, and "control_amplification_KIND" for each
    kind of control, and "random_amplification". One that no query has is left out, such as those of a kind of which
    there is no other fact. A value that there is none of (a share of a mean probability of 0), and the ends of an
    interval that was not estimated, are None.
    """
    rows = rows_N & ~np.isnan(edited.suppressed[protocol, method, "own"])
    fact_N = asked.queries.fact_N[rows]
    relation_N = [asked.facts.facts[fact].relation for fact in fact_N.tolist()]
    columns = {name: column[rows] for name, column in _columns(edited, protocol, method).items()}
    jobs = [(columns, {name: name for name in METRICS})]
    for name, source in AMPLIFIED.items():
        doubled = edited.amplified[protocol, method, source][rows]
        jobs.append(({**columns, "amplified": doubled}, {"amplification": name}))
    found: dict = {"facts": len(np.unique(fact_N)), "queries": int(rows.sum()), "overall": {}, "by_relation": {}}
    estimates: dict[str, Estimates] = {}
    for of, named in jobs:
        there = {column: values for column, values in of.items() if not np.isnan(values).all()}
        metrics = [metric for metric in named if is_measured(metric, there)]
        for metric, value in estimate(metrics, there, fact_N, relation_N, replicates=replicates, seed=seed).items():
            estimates[named[metric]] = value
            found["overall"][named[metric]] = plain(value.overall)
            for relation, inside in value.by_relation.items():
                found["by_relation"].setdefault(relation, {})[named[metric]] = plain(inside)
    return {**found, "left_out": left_out_relations({"": estimates}).get("", {})}


def _columns(edited: Edited, protocol: str, method: str) -> dict[str, Float[np.ndarray, " N"]]:
    """The columns of `METRICS`, as `jaxinterp.metrics.families.answers` names them."""
    p_N = edited.probability_N
    off = {source: edited.suppressed[protocol, method, source] for source in SOURCES}
    columns = {"probability": p_N, "suppressed": off["own"], "random": off["random"]}
    for kind in KINDS:
        columns[f"control_{kind}"] = off[kind]
        columns[f"control_{kind}_lost"] = np.maximum(p_N - off[kind], 0)
        columns[f"control_{kind}_moved"] = np.abs(p_N - off[kind])
    return {**columns, "amplified": edited.amplified[protocol, method, "own"]}


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
