"""Experts that are all used: without it a router tends to give all tokens to few of them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.base.errors import UserError
from jaxinterp.models.readout import LanguageModelReadout
from jaxinterp.models.row_layers import router_logits
from jaxinterp.objectives.context import Context
from jaxinterp.objectives.neuron_pairs import row_shares
from jaxinterp.objectives.registry import objective


@objective("balance")
def balance(context: Context) -> Float[Array, ""]:
    """Mean over layers of E · Σ_e f_e · p_e, with f_e the share of the choices that fall on expert e and p_e the mean
    of its softmax over all experts (Fedus et al. 2022, eq. 4–6). 1 is balanced and best, E is one expert for all.

    Two deviations: means are over the rows that the batch reads, answers and tokens of text alike, not over all
    tokens; and with several active experts each of a token's choices counts the same. f has no gradient.
    """
    readout = context.readout
    if not isinstance(readout, LanguageModelReadout) or readout.model.config.experts == 1:
        raise UserError("the term balance needs a language model with model.experts above 1")
    config = readout.model.config
    logits_LRE, share_R = router_logits(readout), row_shares(context)
    chosen_LRkE = jax.nn.one_hot(jax.lax.top_k(logits_LRE, config.experts_active)[1], config.experts)
    f_LE = jnp.einsum("lrke,r->le", chosen_LRkE, share_R) / config.experts_active
    p_LE = jnp.einsum("lre,r->le", jax.nn.softmax(logits_LRE), share_R)
    return config.experts * (f_LE * p_LE).sum(-1).mean()
