"""Which neurons serve which facts: how many, in which layers, how many are shared, what they promote."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Int

from jaxinterp.metrics.results import promoted_tokens
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.studies.knowledge_neurons.queries import Asked
from jaxinterp.studies.knowledge_neurons.sets import NONE, Selection


@dataclasses.dataclass(frozen=True)
class Usage:
    """How often each fact's neurons are used: w[n, i], the share of the fact's answer tokens whose set has neuron i."""

    weight_NI: Float[np.ndarray, "N I"]  # only neurons that some fact uses
    neuron_I: Int[np.ndarray, " I"]  # which they are, as layer · F + neuron
    fact_N: Int[np.ndarray, " N"]  # the facts


@dataclasses.dataclass(frozen=True)
class Neurons:
    """Numbers of neurons of some facts.

    Two facts share Σ_i w[a, i] w[b, i] neurons: of one set per fact, how many they have in common; of one per answer
    token, the mean of that over pairs of their answer tokens.
    """

    facts: int
    mean: float | None  # neurons per fact
    without: int  # facts without any neuron
    distinct: int  # neurons that some fact uses
    layers: tuple[float, ...]  # shares of all uses
    shared_inside: float | None  # mean over pairs of facts of one relation, then over relations that have a pair
    shared_across: float | None  # mean over all pairs of facts of different relations; None without pairs
    by_relation: Mapping[str, Mapping]  # name -> facts, mean, without, shared_inside


def usage(asked: Asked, selection: Selection) -> Usage:
    """The use of neurons by the facts that the selection covers."""
    length_N = asked.queries.answer_length_N
    covered_A = np.repeat(selection.covered_N, length_N)
    facts, place_A = np.unique(np.repeat(asked.queries.fact_N, length_N)[covered_A], return_inverse=True)
    neurons_AW = selection.neurons_AW[covered_A]
    there_AW = neurons_AW != NONE
    used, column = np.unique(neurons_AW[there_AW], return_inverse=True)
    weight_NI = np.zeros((len(facts), len(used)))
    np.add.at(weight_NI, (np.broadcast_to(place_A[:, None], neurons_AW.shape)[there_AW], column), 1)
    return Usage(weight_NI / np.bincount(place_A, minlength=len(facts))[:, None], used, facts)


def neuron_statistics(use: Usage, asked: Asked, config: ModelConfig) -> Neurons:
    """Numbers of neurons, their layers, and how many two facts share."""
    count_N, relation_N = use.weight_NI.sum(1), asked.relations(use.fact_N)
    by_relation, inside, same_sum, same_pairs = {}, [], 0.0, 0
    for name in dict.fromkeys(relation_N.tolist()):
        own = relation_N == name
        n, weight = int(own.sum()), use.weight_NI[own]
        all_pairs = float((weight.sum(0) ** 2).sum())
        shared = (all_pairs - float((weight**2).sum())) / (n * (n - 1)) if n > 1 else None
        by_relation[name] = {**_counts(count_N[own]), "shared_inside": shared}
        inside += [shared] if shared is not None else []
        same_sum += all_pairs
        same_pairs += n * n
    total = use.weight_NI.sum(0)
    n_across = len(count_N) ** 2 - same_pairs
    per_layer = np.bincount(use.neuron_I // config.d_mlp, weights=total, minlength=config.n_layers)
    return Neurons(
        **_counts(count_N),
        distinct=len(use.neuron_I),
        layers=tuple((per_layer / max(per_layer.sum(), 1e-300)).tolist()),
        shared_inside=float(np.mean(inside)) if inside else None,
        shared_across=(float((total**2).sum()) - same_sum) / n_across if n_across else None,
        by_relation=by_relation,
    )


def _counts(count_N: np.ndarray) -> dict:
    mean = float(count_N.mean()) if len(count_N) else None
    return {"facts": len(count_N), "mean": mean, "without": int((count_N == 0).sum())}


def described_neurons(
    use: Usage, asked: Asked, model: LanguageModel, progress: Callable[[int], None] = lambda _: None
) -> list[dict]:
    """Every neuron that some fact uses, those of most facts first; `progress` is told the number of neurons done.

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
        found.append(
            {
                "layer": layer,
                "neuron": neuron,
                "facts": int(number_I[place]),
                "relations": dict(Counter(fact.relation for fact in served).most_common()),
                "serves": [f"{fact.subject} → {fact.answer} ({fact.relation})" for fact in served],
                "promotes": promoted_tokens(model, layer, neuron),
            }
        )
        progress(len(found))
    return found
