"""How probable answers are, as a loss that edits go down."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.editing.places import Texts
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward, unembed


def answer_logits(model: Model, texts: Texts, resid_QTD: Float[Array, "Q T D"] | None = None) -> Float[Array, "Q A V"]:
    """Logits where the answers' tokens are read.

    Args:
      resid_QTD: the residual stream after the last layer; None is the model's own.
    """
    if resid_QTD is None:
        resid_QTD = forward(model, texts.tokens_QT).resid_final_BTD
    return unembed(model, jnp.take_along_axis(resid_QTD, texts.read_QA[..., None], 1))


def nll(logits_QAV: Float[Array, "Q A V"], texts: Texts) -> Float[Array, ""]:
    """−log P of each text's answer, divided by its tokens; the mean over texts."""
    log_p_QA = jnp.take_along_axis(jax.nn.log_softmax(logits_QAV), texts.target_QA[..., None], -1)[..., 0]
    return -((log_p_QA * texts.weight_QA).sum(1) / texts.weight_QA.sum(1)).mean()


def answer_nll(model: Model, texts: Texts) -> Float[Array, ""]:
    """`nll` of the model's own logits."""
    return nll(answer_logits(model, texts), texts)
