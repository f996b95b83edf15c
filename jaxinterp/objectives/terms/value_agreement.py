"""Facts in neurons that can be read: the knowledge neurons' value vectors say the answer."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.base.errors import UserError
from jaxinterp.models.readout import LanguageModelReadout
from jaxinterp.models.rerun import after_ffn
from jaxinterp.models.transformer import unembed
from jaxinterp.objectives.context import Context, mean
from jaxinterp.objectives.registry import objective


@objective("value_agreement")
def value_agreement(context: Context) -> Float[Array, ""]:
    """E[1 − Σ_(i of own k) s_i g_i], weighed by sg(P), with s_i = A⁺_i / max(Σ A⁺, 0.3 sg P) a neuron's share of the
    answer's positive scores, and g_i = 1 + log p_i(y) / log V how far its value agrees with the answer's first token y.

    p_i = softmax of what the unembedding reads where the value vector v_i alone is what the layer writes: the
    norm-folded lens, with the norms' divisions by v_i's own size, so that larger weights gain nothing by being large.
    g is 1 where the value says y for certain, 0 for a value that says nothing, below 0 where it says something else; a
    probability in its place would have no slope there. So the term is 0 at best, 1 where the attribution lies on
    neurons that say nothing, or outside of the own k, and above 1 for values that say other tokens.

    The gradient acts on values and on scores: values of an answer's neurons turn to the answer, and attribution moves
    to neurons whose values say it. With scores held constant the second way would be closed, and knowledge neurons
    mostly sit where later layers read them, in the first layer. Which neurons are the own k is held constant.
    """
    readout, answers = context.readout, context.answers
    if not isinstance(readout, LanguageModelReadout):
        raise UserError("the term value_agreement needs a language model, whose value vectors it can see")
    first_N = answers.first_row_N
    scores_NU = context.positive_LRF[:, first_N].transpose(1, 0, 2).reshape(answers.n, -1)
    chosen_NU = jax.lax.stop_gradient(context.scores_LRF)[:, first_N].transpose(1, 0, 2).reshape(answers.n, -1)
    _, neuron_NK = jax.lax.top_k(chosen_NU, context.config.k)
    share_NK = jnp.take_along_axis(scores_NU, neuron_NK, axis=1) / context.attributed_R[first_N][:, None]
    agreement_NK = agreements(readout, neuron_NK, jnp.asarray(readout.rows.target_R)[first_N])
    return mean(1 - (share_NK * agreement_NK).sum(1), context.known_N)


def agreements(
    readout: LanguageModelReadout, neuron_NK: Int[Array, "N K"], token_N: Int[Array, " N"]
) -> Float[Array, "N K"]:
    """1 + log p(token) / log V of the value vectors of neurons; see `value_agreement`.

    Args:
      readout: whose model.
      neuron_NK: numbers of neurons over all layers, layer · F + neuron.
      token_N: a token for each N.
    """
    model, layers = readout.model, readout.layers
    layer_NK, number_NK = jnp.divmod(neuron_NK, model.config.d_mlp)
    value_NKD = layers["w_out"][layer_NK, number_NK]
    resid_NKD = after_ffn(model.config, layers, layer_NK, jnp.zeros_like(value_NKD), value_NKD)

    # An answer at a time, and again in a backward pass, so that the logits of one are held.
    @jax.checkpoint
    def log_p_K(x: tuple[Array, Array]) -> Float[Array, " K"]:
        resid_KD, token = x
        return jax.nn.log_softmax(unembed(model, resid_KD))[:, token]

    log_p_NK = jax.lax.map(log_p_K, (resid_NKD, token_N))
    return 1 + log_p_NK / np.log(model.config.d_vocab)
