"""Whether a memory does what its value says: amplified or switched off at its triggers, while tokens are watched."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.attribution.edits import NeuronEdit
from jaxinterp.base.errors import UserError
from jaxinterp.base.progress import progress
from jaxinterp.memories.config import CausalConfig
from jaxinterp.memories.memory import Memories, value_logits
from jaxinterp.metrics.intervals import Estimate, draws, interval_of_replicates, multiple_of_relations
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.lens import as_unembedded, unembedding
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward, unembed

# Whose tokens are watched: those that the neuron's own value promotes most; of the value of another neuron of its
# layer; and of a random vector with the moments of the layer's values.
OF = ("own", "shuffled", "random")


class Effects(NamedTuple):
    """Changes of the probability of tokens, summed over a value's tokens, for N neurons of one layer at K triggers.

    O are the values whose tokens they are, in the order of `OF`.
    """

    layer: int
    neuron_N: Int[np.ndarray, " N"]
    amplified_NKO: Float[np.ndarray, "N K O"]
    suppressed_NKO: Float[np.ndarray, "N K O"]


def effects(found: Memories, config: CausalConfig, layer: int) -> Effects | None:
    """What amplifying (activation · factor) and switching off (0) neurons of a layer does at their triggers.

    The neuron is changed at the trigger alone, and the next token's probabilities are read there.

    Returns:
      None if fewer than two neurons of the layer have enough triggers with an activation above 0.
    """
    rng = np.random.default_rng([config.seed, layer])
    triggers = found.triggers
    if config.triggers > triggers.activation_LFK.shape[-1]:
        raise UserError(f"causal.triggers must be at most the {triggers.activation_LFK.shape[-1]} that were looked for")
    live = np.flatnonzero(triggers.activation_LFK[layer, :, config.triggers - 1] > 0)
    if len(live) < 2:
        return None
    neuron_N = np.sort(rng.permutation(live)[: config.neurons or len(live)])
    token_NOX = _watched(found.model, layer, neuron_N, live, config.tokens, rng)
    window_NK, position_NK = (of[layer, neuron_N, : config.triggers] for of in triggers[1:])
    row = np.arange(neuron_N.size * config.triggers)
    number_Q = row // config.triggers
    change_Q2O = np.zeros((len(row), 2, len(OF)))
    with progress(f"layer {layer}", len(row)) as report:
        for first in range(0, len(row), config.batch):
            chosen = np.resize(row[first : first + config.batch], config.batch)
            window_B, position_B = window_NK.ravel()[chosen], position_NK.ravel()[chosen]
            width = min(found.corpus.tokens_NT.shape[1], -(-int(position_B.max() + 1) // 16) * 16)
            change_B2O = _changes(
                found.model.model,
                *(found.corpus.tokens_NT[window_B, :width], position_B, found.corpus.length_N[window_B]),
                *(np.int32(layer), neuron_N[number_Q[chosen]], token_NOX[number_Q[chosen]], config.factor),
            )
            n = len(row[first : first + config.batch])
            change_Q2O[first : first + n] = np.asarray(change_B2O)[:n]
            report(first + n, "triggers")
    by_neuron = change_Q2O.reshape(len(neuron_N), config.triggers, 2, len(OF))
    return Effects(layer, neuron_N, by_neuron[:, :, 0], by_neuron[:, :, 1])


def shares(of: Sequence[Effects], config: CausalConfig) -> dict[str, dict[str, Estimate]]:
    """ "raised" and "lowered" -> whose tokens -> share of triggers where they became more probable when the neuron was
    amplified, and less when it was switched off; the mean over neurons, with an interval over neurons.

    A neuron's triggers are no draws of their own: what few triggers say of it is in the spread over neurons.
    """
    change = {"raised": [e.amplified_NKO > 0 for e in of], "lowered": [e.suppressed_NKO < 0 for e in of]}
    return {
        what: dict(zip(OF, _estimates(np.concatenate(parts), config), strict=True)) for what, parts in change.items()
    }


def _estimates(is_so_NKO: np.ndarray, config: CausalConfig) -> list[Estimate]:
    mean_NO, n_neurons = is_so_NKO.mean(1), len(is_so_NKO)
    weight_SN = draws(n_neurons, [config.seed, *b"causal"], config.replicates)
    sample_SO = weight_SN @ mean_NO / weight_SN.sum(1, keepdims=True)
    multiple, n = multiple_of_relations(config.level, n_neurons), is_so_NKO[..., 0].size
    return [interval_of_replicates(sample_S, (0.0, 1.0), multiple, n) for sample_S in sample_SO.T]


def _watched(
    model: LanguageModel, layer: int, neuron_N: np.ndarray, live: np.ndarray, n_tokens: int, rng: np.random.Generator
) -> Int[np.ndarray, "N O X"]:
    """The tokens that each value of `OF` promotes most."""
    place = np.searchsorted(live, neuron_N)
    other_N = live[(place + rng.integers(1, len(live), len(neuron_N))) % len(live)]
    rows_FD = np.asarray(model.params["layers"]["w_out"][layer], np.float64)
    random_ND = rows_FD.mean(0) + rows_FD.std(0) * rng.standard_normal((len(neuron_N), rows_FD.shape[1]))
    layer_params = jax.tree.map(lambda x: jnp.asarray(x[layer]), model.params["layers"])
    table_VD = unembedding(model.model)
    random_NV = np.asarray(as_unembedded(model.model, layer_params, jnp.asarray(random_ND, jnp.float32)) @ table_VD.T)
    logits_ONV = [value_logits(model, layer, neuron_N), value_logits(model, layer, other_N), random_NV]
    tokens = [np.argsort(-logit_NV[:, : model.tokenizer.n_tokens], 1, kind="stable") for logit_NV in logits_ONV]
    return np.stack([of_NV[:, :n_tokens] for of_NV in tokens], 1)


@jax.jit
def _changes(
    model: Model,
    tokens_BT: Array,
    position_B: Array,
    length_B: Array,
    layer: Array,
    neuron_B: Array,
    token_BOX: Array,
    factor: Array | float,
) -> Float[Array, "B 2 O"]:
    """The probability of the tokens with the neuron amplified, and with it off, less that of the untouched model."""
    config, row_B = model.config, jnp.arange(tokens_BT.shape[0])
    length_B = jnp.minimum(length_B, tokens_BT.shape[1])

    def probability_BO(gate: Array | float) -> Float[Array, "B O"]:
        gates = jnp.ones((config.n_layers, tokens_BT.shape[0], config.d_mlp)).at[layer, row_B, neuron_B].set(gate)
        result = forward(model, tokens_BT, edit=NeuronEdit(gates), query_B=position_B, length_B=length_B)
        p_BV = jax.nn.softmax(unembed(model, result.resid_final_BTD[row_B, position_B]))
        return jnp.take_along_axis(p_BV, token_BOX.reshape(len(row_B), -1), 1).reshape(token_BOX.shape).sum(-1)

    before_BO = probability_BO(1.0)
    return jnp.stack([probability_BO(factor) - before_BO, probability_BO(0.0) - before_BO], 1)
