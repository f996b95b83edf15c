"""Measurements as plain data: what results.json holds and charts and reports read."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.metrics.estimates import Estimate, Estimates
from jaxinterp.metrics.measure import Measurement
from jaxinterp.models.bundle import LanguageModel
from jaxinterp.models.value_vectors import as_unembedded, unembedding

ABILITY = ("cross_entropy", "recall")  # those of a bidirectional model lack the first
MOST_USED = 20  # neurons listed


def model_results(measurement: Measurement, model: LanguageModel, relations: list[str]) -> dict:
    """The entry of one model in results.json.

    {"cross_entropy", "recall", "sets": {set: {metric: E}}, "by_relation": {set: {relation: {metric: E}}},
    "neurons": [...], "layers": [...]} with E = {"value", "low", "high", "n"}; n counts facts.
    """
    return {
        **{name: _plain(measurement.ability[name].overall) for name in ABILITY if name in measurement.ability},
        "sets": overall(measurement.sets),
        "by_relation": {set_name: _by_relation(metrics) for set_name, metrics in measurement.sets.items()},
        "neurons": most_used_neurons(measurement, model, relations),
        "layers": _shares(measurement.selected.sum((0, 2))),
    }


def overall(sets: Mapping[str, Mapping[str, Estimates]]) -> dict[str, dict[str, dict]]:
    """Set -> metric -> {"value", "low", "high", "n"}."""
    return {
        set_name: {name: _plain(values.overall) for name, values in metrics.items()}
        for set_name, metrics in sets.items()
    }


def most_used_neurons(measurement: Measurement, model: LanguageModel, relations: list[str]) -> list[dict]:
    """The neurons selected most often in the objective's set, with the relations they serve and what they promote.

    "share" is of all selections, which are counted by answer token: "selections".
    """
    total = measurement.selected.sum(0)
    order = np.argsort(-total, axis=None, kind="stable")[:MOST_USED]
    neurons = []
    for layer, neuron in zip(*np.unravel_index(order, total.shape), strict=True):
        if not total[layer, neuron]:
            break
        by_relation = measurement.selected[:, layer, neuron]
        neurons.append(
            {
                "layer": int(layer),
                "neuron": int(neuron),
                "share": float(total[layer, neuron] / total.sum()),
                "selections": int(total[layer, neuron]),
                "relations": {
                    relations[index]: float(by_relation[index] / by_relation.sum())
                    for index in np.argsort(-by_relation, kind="stable")
                    if by_relation[index]
                },
                "promotes": promoted_tokens(model, int(layer), int(neuron)),
            }
        )
    return neurons


def promoted_tokens(model: LanguageModel, layer: int, neuron: int, n: int = 5, *, activation: float = 1.0) -> list[str]:
    """The n tokens that the neuron's value vector promotes most: the largest of W_out[i] · E; Geva et al. 2021.

    A neuron whose `activation` is negative, as it can be in gated FFNs, promotes what −W_out[i] · E is largest for.

    See `models.value_vectors` for the norms in between.
    """
    config, params = model.config, model.params
    layer_params = jax.tree.map(lambda x: jnp.asarray(x[layer]), params["layers"])
    value = layer_params["w_out"][neuron] * (-1.0 if activation < 0 else 1.0)
    logits = unembedding(config, params) @ as_unembedded(config, params, layer_params, value[None])[0]
    return [model.tokenizer.token(int(token)) for token in jax.lax.top_k(logits, n)[1]]


def _plain(estimate: Estimate) -> dict:
    return dataclasses.asdict(estimate)


def _by_relation(metrics: Mapping[str, Estimates]) -> dict[str, dict[str, dict]]:
    names = sorted({relation for values in metrics.values() for relation in values.by_relation})
    return {
        relation: {
            name: _plain(values.by_relation[relation])
            for name, values in metrics.items()
            if relation in values.by_relation
        }
        for relation in names
    }


def _shares(counts: np.ndarray) -> list[float]:
    return (counts / max(counts.sum(), 1)).tolist()
