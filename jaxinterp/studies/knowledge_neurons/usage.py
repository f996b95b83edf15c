"""Which neurons serve which facts: how many, in which layers, how many are shared, what they promote."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from jaxinterp.metrics.results import promoted_tokens
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.studies.knowledge_neurons.queries import Asked
from jaxinterp.studies.knowledge_neurons.sets import Selection


@dataclasses.dataclass(frozen=True)
class Usage:
    """How often each fact's neurons are used: w[n, i], the share of the fact's answer tokens whose set has neuron i."""

    weight_NI: Float[np.ndarray, "N I"]  # only neurons that some fact uses
    neuron_I: np.ndarray  # which they are, as layer · F + neuron
    fact_N: np.ndarray  # the facts


def usage(asked: Asked, selection: Selection) -> Usage:
    """The use of neurons by the facts that the selection covers."""
    fact_of = asked.queries.fact_N
    facts = np.unique(fact_of[selection.covered_N])
    place = {fact: index for index, fact in enumerate(facts.tolist())}
    sets = [
        (place[fact_of[query]], neurons)
        for query in np.flatnonzero(selection.covered_N)
        for neurons in selection.sets[query]
    ]
    used = np.unique(np.concatenate([np.zeros(0, int), *(neurons for _, neurons in sets)]))
    weight, n_sets = np.zeros((len(facts), len(used))), np.zeros(len(facts))
    for fact, neurons in sets:
        weight[fact, np.searchsorted(used, neurons)] += 1
        n_sets[fact] += 1
    return Usage(weight / n_sets[:, None], used, facts)


def neuron_statistics(use: Usage, relation_N: np.ndarray, d_mlp: int, n_layers: int) -> dict:
    """Numbers of neurons, their layers, and how many two facts share.

    Two facts share Σ_i w[a, i] w[b, i] neurons: of one set a fact, how many they have in common; of one an answer
    token, the mean of that over pairs of their answer tokens. "shared_inside" is the mean over pairs of facts of one
    relation, then over relations that have a pair; "shared_across" the mean over all pairs of facts of different
    relations; None without pairs.

    Args:
      use: of N facts.
      relation_N: their relations' names.
      d_mlp, n_layers: F and L.
    Returns:
      {"facts", "mean", "without" (facts without any neuron), "distinct" (neurons that some fact uses), "layers" (shares
      of all uses), "shared_inside", "shared_across", "by_relation": {name: {"facts", "mean", "without",
      "shared_inside"}}}.
    """
    count_N = use.weight_NI.sum(1)
    by_relation, inside, same_sum, same_pairs = {}, [], 0.0, 0
    for name in dict.fromkeys(relation_N.tolist()):
        own = relation_N == name
        n, weight = int(own.sum()), use.weight_NI[own]
        shared_twice = float((weight.sum(0) ** 2).sum() - (weight**2).sum())
        shared = shared_twice / (n * (n - 1)) if n > 1 else None
        by_relation[name] = {**_counts(count_N[own]), "shared_inside": shared}
        inside += [shared] if shared is not None else []
        same_sum += float((weight.sum(0) ** 2).sum())
        same_pairs += n * n
    total = use.weight_NI.sum(0)
    n_across = len(count_N) ** 2 - same_pairs
    per_layer = np.bincount(use.neuron_I // d_mlp, weights=total, minlength=n_layers)
    return {
        **_counts(count_N),
        "distinct": len(use.neuron_I),
        "layers": (per_layer / max(per_layer.sum(), 1e-300)).tolist(),
        "shared_inside": float(np.mean(inside)) if inside else None,
        "shared_across": (float((total**2).sum()) - same_sum) / n_across if n_across else None,
        "by_relation": by_relation,
    }


def _counts(count_N: np.ndarray) -> dict:
    mean = float(count_N.mean()) if len(count_N) else None
    return {"facts": len(count_N), "mean": mean, "without": int((count_N == 0).sum())}


def described_neurons(
    use: Usage, asked: Asked, model: LanguageModel, progress: Callable[[int], None] = lambda _: None
) -> list[dict]:
    """Every neuron that some fact uses, those of most facts first.

    Args:
      use: of the facts.
      asked: the facts.
      model: whose neurons they are.
      progress: told the number of neurons done.
    Returns:
      {"layer", "neuron", "facts" (their number), "relations": {name: facts}, "serves": ["subject → answer (relation)"],
      "promotes": the five tokens that its value vector promotes most} for each.
    """
    number_I = (use.weight_NI > 0).sum(0)
    found = []
    for place in np.argsort(-number_I, kind="stable").tolist():
        layer, neuron = divmod(int(use.neuron_I[place]), model.config.d_mlp)
        order = np.argsort(-use.weight_NI[:, place], kind="stable")[: number_I[place]]
        served = [asked.facts.facts[fact] for fact in use.fact_N[order].tolist()]
        relations: dict[str, int] = {}
        for fact in served:
            relations[fact.relation] = relations.get(fact.relation, 0) + 1
        found.append(
            {
                "layer": layer,
                "neuron": neuron,
                "facts": int(number_I[place]),
                "relations": dict(sorted(relations.items(), key=lambda item: -item[1])),
                "serves": [f"{fact.subject} → {fact.answer} ({fact.relation})" for fact in served],
                "promotes": promoted_tokens(model, layer, neuron),
            }
        )
        progress(len(found))
    return found
