"""A model whose circuit is known: one input, one neuron, one logit."""

import jax.numpy as jnp
import numpy as np

from jaxinterp.groundtruth.blank import IDENTITY_NORM, blank_params, on_device
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.model import Model
from jaxinterp.models.readout import LanguageModelReadout, Rows, lm_readout


def one_neuron_circuit() -> LanguageModelReadout:
    """Token 1 → neuron 0 of layer 0 → the logit of token 3, against a logit of token 0 that is always the same."""
    sizes = {"n_layers": 2, "d_model": 4, "d_mlp": 3, "n_heads": 1, "n_kv_heads": 1, "d_head": 2}
    config = ModelConfig(4, 2, **sizes, ffn="relu", tied=False, dtype="float64", **IDENTITY_NORM)
    params = blank_params(config)
    params["embedding"][1] = [1, 0, 0, 1]
    params["embedding"][2] = [0, 1, 0, 1]
    params["layers"]["w_in"][0, 0, 0] = params["layers"]["w_out"][0, 0, 2] = 1
    params["unembedding"][3, 2], params["unembedding"][0, 3] = 20, 15
    rows = Rows(np.array([0, 1]), np.array([0, 0]), np.array([3, 0]))
    return lm_readout(Model(config, on_device(params)), jnp.asarray([[1, 3], [2, 0]]), rows)[1]
