"""Changes of the value rows of chosen neurons, which may lie in several layers."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxinterp.base.errors import UserError
from jaxinterp.editing.deltas import Rows
from jaxinterp.editing.neurons import request_neurons
from jaxinterp.editing.places import VALUE_ROWS
from jaxinterp.editing.registry import Given, Neurons
from jaxinterp.editing.request import Request
from jaxinterp.models.language_model import LanguageModel


def neurons_of(model: LanguageModel, requests: Sequence[Request], k: int, given: Given) -> list[Neurons]:
    """The given neurons of each request, or its k knowledge neurons.

    Raises:
      UserError: if one that is given does not exist, or is there twice, or a request has none.
    """
    if given.neurons is None:
        return request_neurons(model, requests, k)
    config = model.config
    for number, own in enumerate(given.neurons):
        layer_k, neuron_k = (np.asarray(part) for part in own)
        places = set(zip(layer_k.tolist(), neuron_k.tolist(), strict=True))
        if not places:
            raise UserError(f"request {number} has no neurons to edit; give at least one")
        if len(places) < len(layer_k):
            raise UserError(f"a neuron of request {number} is given twice; give each once")
        for layer, neuron in places:
            if not (0 <= layer < config.n_layers and 0 <= neuron < config.d_mlp):
                raise UserError(
                    f"the model has no neuron {neuron} in layer {layer}: there are {config.n_layers} layers of "
                    f"{config.d_mlp} neurons, from 0"
                )
    return list(given.neurons)


def own_rows(model: LanguageModel, neurons: Neurons) -> Float[np.ndarray, "k D"]:
    """The neurons' value rows, in float64."""
    return np.asarray(model.params["layers"]["w_out"][neurons.layer_k, neurons.neuron_k]).astype(np.float64)


def row_deltas(neurons: Neurons, delta_kD: Float[np.ndarray, "k D"]) -> list[Rows]:
    """What is added to the neurons' value rows, layer by layer."""
    return [
        Rows(VALUE_ROWS, layer, np.asarray(neurons.neuron_k)[own], delta_kD[own])
        for layer in np.unique(neurons.layer_k).tolist()
        for own in [np.asarray(neurons.layer_k) == layer]
    ]
