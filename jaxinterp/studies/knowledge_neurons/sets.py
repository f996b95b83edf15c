"""From scores to sets of neurons: the paper's rule, a fixed number, other facts' neurons."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int

from jaxinterp.attribution.refining import ACTIVATION_THRESHOLD, AT_LEAST, THRESHOLD, relation_neurons
from jaxinterp.facts.controls import KINDS, Kind, draw_controls
from jaxinterp.facts.facts import FactSet
from jaxinterp.studies.knowledge_neurons.queries import Asked
from jaxinterp.studies.knowledge_neurons.records import Record

THRESHOLDS = {"attribution": THRESHOLD, "activation": ACTIVATION_THRESHOLD}
Sets = Sequence[Sequence[Int[np.ndarray, " _"]]]  # of each query, of each answer token: neurons as layer · F + neuron


@dataclasses.dataclass(frozen=True)
class Selection:
    """One protocol's neurons by one method."""

    sets: Sets
    covered_N: Bool[np.ndarray, " N"]  # which queries the protocol can treat; the sets of the others are empty
    share: Mapping[str, float]  # relation -> share of prompts that the paper's tuning arrived at; {} for a fixed number


def fixed_number(asked: Asked, record: Record, method: str, k: int) -> Selection:
    """Every answer token's own k strongest neurons."""
    sets = [
        [np.array(token[method]["neurons"][:k]) for token in query["tokens"]]
        for fact in _facts(asked)
        for query in record[fact]["queries"]
    ]
    return Selection(sets, np.ones(len(sets), bool), {})


def by_the_paper(asked: Asked, record: Record, method: str) -> Selection:
    """One set a fact, for all its prompts: neurons that are strong in enough of them; see `recurrence`.

    Covers facts with answers of one token and at least three prompts. (The paper left out relations with fewer than
    four.)
    """
    covered_N = covered_by_the_paper(asked)
    by_relation: dict[str, list[int]] = {}
    for fact in np.unique(asked.queries.fact_N[covered_N]).tolist():
        by_relation.setdefault(asked.facts.facts[fact].relation, []).append(fact)
    neurons: dict[int, np.ndarray] = {}
    shares = {}
    for relation, facts in by_relation.items():
        rows = {fact: [query["tokens"][0][method] for query in record[fact]["queries"]] for fact in facts}
        # The rule compares scores with their prompt's highest one, which is recorded; of the neurons that no prompt of
        # the relation recorded, none is strong anywhere. So a column for each recorded one is enough.
        columns = np.unique(np.concatenate([row["neurons"] for prompts in rows.values() for row in prompts]))
        found = relation_neurons([_dense(prompts, columns) for prompts in rows.values()], threshold=THRESHOLDS[method])
        shares[relation] = found.share
        for fact, mask in zip(facts, found.masks_NLF[:, 0], strict=True):
            neurons[fact] = columns[mask]
    nothing = np.zeros(0, int)
    lengths = asked.queries.answer_length_N.tolist()
    sets = [[neurons.get(fact, nothing)] * n for fact, n in zip(asked.queries.fact_N.tolist(), lengths, strict=True)]
    return Selection(sets, covered_N, shares)


def covered_by_the_paper(asked: Asked) -> Bool[np.ndarray, " N"]:
    """Which queries are of facts with one-token answers in all their prompts, and enough prompts for the rule."""
    fact_N = asked.queries.fact_N
    _, place, n_prompts = np.unique(fact_N, return_inverse=True, return_counts=True)
    longest = np.zeros(len(n_prompts), int)
    np.maximum.at(longest, place, asked.queries.answer_length_N)
    return ((longest == 1) & (n_prompts >= AT_LEAST))[place]


def _dense(prompts: Sequence[Mapping], columns: np.ndarray) -> np.ndarray:
    scores = np.zeros((len(prompts), 1, len(columns)))
    for row, prompt in zip(scores[:, 0], prompts, strict=True):
        row[np.searchsorted(columns, prompt["neurons"])] = prompt["scores"]
    return scores


def partners(asked: Asked, seed: int) -> dict[Kind, dict[int, int]]:
    """By kind of control, each fact's partner: the other fact whose neurons its own are compared with.

    See `facts.controls` for the kinds; whether answers share a token is seen in the first prompt of each fact. A fact
    without a possible partner of a kind is left out there. The draw depends on the seed and the set of facts alone, so
    that all prompts, protocols and methods share it. A fact that the paper's protocol covers gets a partner that it
    covers too, if there is one.
    """
    facts_N, first_N = np.unique(asked.queries.fact_N, return_index=True)
    covered_N = covered_by_the_paper(asked)[first_N]
    rng = np.random.default_rng([seed, *b"partner"])
    found: dict[Kind, dict[int, int]] = {kind: {} for kind in KINDS}
    for within in (np.arange(len(facts_N)), np.flatnonzero(covered_N)):  # the second draw takes precedence
        pool_N = facts_N[within]
        drawn_KN = draw_controls(asked.queries[first_N[within]], KINDS, 1, rng)[:, 0]
        for kind, drawn_N in zip(KINDS, drawn_KN, strict=True):
            there = drawn_N >= 0
            found[kind] |= dict(zip(pool_N[there].tolist(), pool_N[drawn_N[there]].tolist(), strict=True))
    return found


def of_partners(asked: Asked, selection: Selection, partner: Mapping[int, int]) -> Selection:
    """Each query gets the sets of its fact's partner: of the prompt and answer token in the same place, in turn.

    A fact without a partner is not covered, nor is one whose partner the selection does not cover.
    """
    places: dict[int, list[int]] = {}
    for place, fact in enumerate(asked.queries.fact_N.tolist()):
        places.setdefault(fact, []).append(place)
    sets, covered_N = [], selection.covered_N.copy()
    for query, fact in enumerate(asked.queries.fact_N.tolist()):
        others = places[partner[fact]] if fact in partner else []
        if not others or not selection.covered_N[others[0]]:
            covered_N[query] = False
            sets.append([np.zeros(0, int) for _ in selection.sets[query]])
            continue
        lent = selection.sets[others[(query - places[fact][0]) % len(others)]]
        sets.append([lent[token % len(lent)] for token in range(len(selection.sets[query]))])
    return Selection(sets, covered_N, {})


def random_seeds(asked: Asked, seed: int) -> list[Int[np.ndarray, " _"]]:
    """For each token of each query's answer the seed of its random neurons, whatever other facts there are."""
    queries = asked.queries
    return [
        _rng(seed, asked.facts, fact, f"random {prompt}").integers(2**32, size=n)
        for fact, prompt, n in zip(
            *(values.tolist() for values in (queries.fact_N, queries.prompt_N, queries.answer_length_N)), strict=True
        )
    ]


def _facts(asked: Asked) -> list[int]:
    return np.unique(asked.queries.fact_N).tolist()


def _rng(seed: int, facts: FactSet, fact: int, purpose: str) -> np.random.Generator:
    """A stream of each fact's own, whatever other facts there are."""
    asked = facts.facts[fact]
    return np.random.default_rng([seed, *json.dumps([asked.relation, asked.subject, asked.answer, purpose]).encode()])
