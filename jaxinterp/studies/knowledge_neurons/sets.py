"""From scores to sets of neurons: the paper's rule, a fixed number, other facts' neurons."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int

from jaxinterp.attribution.refining import AT_LEAST, relation_neurons
from jaxinterp.base.records import Record
from jaxinterp.facts.controls import KINDS, draw_controls
from jaxinterp.facts.encoding import EncodedQueries
from jaxinterp.studies.knowledge_neurons.config import KnowledgeNeuronsConfig
from jaxinterp.studies.knowledge_neurons.queries import Asked
from jaxinterp.studies.knowledge_neurons.scores import METHODS, THRESHOLDS

PROTOCOLS = ("paper", "fixed_k")
NONE = np.iinfo(np.int32).max  # where a set has fewer neurons than others
Key = tuple[str, str]  # (protocol, method)


@dataclasses.dataclass(frozen=True)
class Selection:
    """One protocol's neurons by one method."""

    neurons_AW: Int[np.ndarray, "A W"]  # of each answer token, query by query, as layer · F + neuron; ends in `NONE`
    covered_N: Bool[np.ndarray, " N"]  # which queries the protocol can treat; the others have no neurons
    share: Mapping[str, float]  # relation -> share of prompts that the paper's tuning arrived at; {} for a fixed number


def selections(asked: Asked, record: Record, config: KnowledgeNeuronsConfig) -> dict[Key, Selection]:
    """Each protocol's neurons by each method."""
    return {
        **{("paper", method): by_the_paper(asked, record, method) for method in METHODS},
        **{("fixed_k", method): fixed_number(asked, record, method, config.k) for method in METHODS},
    }


def fixed_number(asked: Asked, record: Record, method: str, k: int) -> Selection:
    """Every answer token's own k strongest neurons."""
    queries = [query for fact in np.unique(asked.queries.fact_N).tolist() for query in record[fact]["queries"]]
    neurons_AW = padded([token[method]["neurons"][:k] for query in queries for token in query["tokens"]])
    return Selection(neurons_AW, np.ones(len(queries), bool), {})


def by_the_paper(asked: Asked, record: Record, method: str) -> Selection:
    """One set per fact, for all its prompts: neurons that are strong in enough of them; see `attribution.refining`.

    Covers facts with answers of one token and at least three prompts. (The paper left out relations with fewer than
    four.)
    """
    covered_N = covered_by_the_paper(asked.queries)
    facts_N = np.unique(asked.queries.fact_N[covered_N])
    relation_N = asked.relations(facts_N)
    neurons: dict[int, list[int]] = {}
    shares = {}
    for relation in dict.fromkeys(relation_N.tolist()):
        facts = facts_N[relation_N == relation].tolist()
        prompts = [[query["tokens"][0][method] for query in record[fact]["queries"]] for fact in facts]
        # The rule compares scores with their prompt's highest one, which is recorded; of the neurons that no prompt of
        # the relation recorded, none is strong anywhere. So a column for each recorded one is enough.
        columns = np.unique(np.concatenate([row["neurons"] for rows in prompts for row in rows]))
        scores = [np.zeros((len(rows), 1, len(columns))) for rows in prompts]
        for scores_P1C, rows in zip(scores, prompts, strict=True):
            for scores_C, row in zip(scores_P1C[:, 0], rows, strict=True):
                scores_C[np.searchsorted(columns, row["neurons"])] = row["scores"]
        found = relation_neurons(scores, threshold=THRESHOLDS[method])
        shares[relation] = found.share
        neurons |= {fact: columns[mask].tolist() for fact, mask in zip(facts, found.masks_NLF[:, 0], strict=True)}
    fact_A = np.repeat(asked.queries.fact_N, asked.queries.answer_length_N)
    return Selection(padded([neurons.get(fact, ()) for fact in fact_A.tolist()]), covered_N, shares)


def covered_by_the_paper(queries: EncodedQueries) -> Bool[np.ndarray, " N"]:
    """Which queries are of facts with one-token answers in all their prompts, and enough prompts for the rule."""
    n_prompts = np.bincount(queries.fact_N)
    several = np.bincount(queries.fact_N, queries.answer_length_N > 1)
    return ((several == 0) & (n_prompts >= AT_LEAST))[queries.fact_N]


def padded(sets: Sequence[Sequence[int]]) -> Int[np.ndarray, "A W"]:
    """Sets of different sizes as rows of one array."""
    neurons_AW = np.full((len(sets), max(1, *map(len, sets))), NONE, np.int32)
    for row, neurons in zip(neurons_AW, sets, strict=True):
        row[: len(neurons)] = neurons
    return neurons_AW


def controls(queries: EncodedQueries, covered_N: Bool[np.ndarray, " N"], seed: int) -> Int[np.ndarray, "K N"]:
    """By kind of control, the query whose neurons each one is compared with; −1 where there is none.

    A fact has one control of each kind, drawn from the covered facts, for all its prompts: those of the control in
    turn. See `facts.controls` for the kinds; whether answers share a token is seen in the first prompt of each fact.
    """
    control_KN = np.full((len(KINDS), len(queries)), -1)
    within = np.flatnonzero(covered_N)
    _, first, fact, n_prompts = np.unique(queries.fact_N[within], True, True, True)
    if len(first):
        rng = np.random.default_rng([seed, 1])
        drawn_KN = draw_controls(queries[within[first]], KINDS, 1, rng)[:, 0][:, fact]
        lender_KN = first[drawn_KN] + (np.arange(len(within)) - first[fact]) % n_prompts[drawn_KN]
        control_KN[:, within] = np.where(drawn_KN >= 0, within[lender_KN], -1)
    return control_KN


def lent(
    queries: EncodedQueries, neurons_AW: Int[np.ndarray, "A W"], control_N: Int[np.ndarray, " N"]
) -> Int[np.ndarray, "A W"]:
    """Each answer token gets the neurons of one of its query's control, whose tokens lend theirs in turn; or none."""
    first_N = np.cumsum(queries.answer_length_N) - queries.answer_length_N
    query_A = np.repeat(np.arange(len(queries)), queries.answer_length_N)
    control_A = control_N[query_A]
    step_A = (np.arange(len(query_A)) - first_N[query_A]) % queries.answer_length_N[control_A]
    return np.where(control_A[:, None] >= 0, neurons_AW[first_N[control_A] + step_A], NONE)
