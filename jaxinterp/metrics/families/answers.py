"""Columns of every answer: its probability untouched, suppressed, amplified, and with other facts' neurons off."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.attribution.edits import active_neurons, amplify, random_masks, suppress
from jaxinterp.attribution.selection import top_k
from jaxinterp.facts.controls import KINDS
from jaxinterp.metrics.columns import ATTRIBUTION, Compared, Measured, column_group, compared_group


@column_group(
    "answers",
    gives={
        "probability": (0.6, 0.3),
        "suppressed": (0.03, 0.28),
        "random": (0.6, 0.2),
        "amplified": (0.9, 0.24),
        "log_probability": (-0.3, -0.3),
        "suppressed_log_probability": (-4.0, -0.4),
        "log_odds": (1.0, 1.0),
        "suppressed_log_odds": (-4.0, 0.9),
        "suppressed_ratio": (0.05, 0.95),
        "residual": (1e-4, 0.2),
    },
    cost="base",
)
def _answers(measured: Measured) -> dict[str, Array]:
    """Probabilities of whole answers, untouched and under the edits of `attribution.edits`. Logarithms in nats.
    residual is the mean absolute completeness residual.
    """
    mask = measured.mask_LRF
    log_p = measured.log_probability(measured.readout.untouched())
    log_suppressed = measured.log_probability(measured.readout(*suppress(mask)))
    return {
        "probability": jnp.exp(log_p),
        "suppressed": jnp.exp(log_suppressed),
        "random": measured.probability(suppress(random_neurons(measured))),
        "amplified": measured.probability(amplify(mask)),
        "log_probability": log_p,
        "suppressed_log_probability": log_suppressed,
        "log_odds": log_odds(log_p),
        "suppressed_log_odds": log_odds(log_suppressed),
        "suppressed_ratio": jnp.exp(log_suppressed - log_p),
        "residual": measured.answers.mean(jnp.abs(measured.attribution.residual_PR).mean(0)),
    }


def random_neurons(measured: Measured) -> Float[Array, "L R F"]:
    """As many random neurons of each answer and layer, out of those active at its first row where they are known."""
    mask, neurons = measured.mask_LRF, measured.readout.neurons_LRF
    active = jnp.ones_like(mask) if neurons is None else active_neurons(neurons)
    key_R = measured.key_N[jnp.asarray(measured.answers.answer_R)]
    return random_masks(key_R, mask, active)[:, measured.answers.first_row_R]


LONGEST = 3  # answers of so many tokens or more are taken together
LENGTHS = tuple(range(1, LONGEST + 1))


@column_group(
    "tokens",
    gives={
        "token_probability": (0.6, 0.3),
        "token_suppressed": (0.06, 0.29),
        "each_suppressed": (0.024, 0.28),
        **{f"suppressed_length_{n}": (0.03, 0.28) for n in LENGTHS},
    },
    cost="base",
)
def _tokens(measured: Measured) -> dict[str, Array]:
    """Answers of several tokens. token_*: means over an answer's tokens of their own P, untouched and with the token's
    own k neurons off; each_suppressed: P of the whole answer with each token's own k neurons off, k for every token;
    suppressed_length_n: P of the suppressed answer where it has n tokens (the last: or more).
    """
    own = top_k(measured.attribution.scores_LRF, measured.k)
    p_R, suppressed_R = measured.readout.untouched(), measured.readout(*suppress(own))
    suppressed = measured.probability(suppress(measured.mask_LRF))
    length = jnp.minimum(measured.answers.length_N, LONGEST)
    return {
        "token_probability": measured.answers.mean(p_R),
        "token_suppressed": measured.answers.mean(suppressed_R),
        "each_suppressed": jnp.exp(measured.log_probability(suppressed_R)),
        **{f"suppressed_length_{n}": jnp.where(length == n, suppressed, jnp.nan) for n in LENGTHS},
    }


@compared_group(
    "controls",
    gives={
        **{f"control_{kind}": (0.59, 0.09) for kind in KINDS},
        **{f"control_{kind}_lost": (0.012, 0.21) for kind in KINDS},
        **{f"control_{kind}_moved": (0.018, 0.21) for kind in KINDS},
    },
    cost="base",
)
def _controls(compared: Compared) -> dict[str, Array]:
    """P with the neurons of another fact off, by the kind of that fact, means over an answer's controls of the kind;
    _lost: mean relu(P − that); _moved: mean |P − that|. NaN where an answer has no control of the kind.
    """
    p, controlled_XN = compared.untouched(), compared.controlled_XN(ATTRIBUTION)
    change_XN = p[None] - controlled_XN
    forms = {"": controlled_XN, "_lost": jax.nn.relu(change_XN), "_moved": jnp.abs(change_XN)}
    return {
        f"control_{kind}{form}": value
        for form, values in forms.items()
        for kind, value in compared.by_kind(values).items()
    }


def log_odds(log_p: Float[Array, " N"]) -> Float[Array, " N"]:
    """log P/(1 − P), in nats, kept finite where P rounds to 1."""
    return log_p - jnp.log(jnp.maximum(-jnp.expm1(log_p), jnp.finfo(log_p.dtype).eps))
