"""How probable answers are, as a loss that edits go down."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.editing.places import Texts
from jaxinterp.models.model import Model
from jaxinterp.models.places import Changes
from jaxinterp.models.transformer import forward, unembed


def answer_logits(model: Model, texts: Texts, changes: Changes | None = None) -> Float[Array, "Q A V"]:
    """Logits where the answers' tokens are read; of changes see `jaxinterp.models.transformer.forward`."""
    resid_QTD = forward(model, texts.tokens_QT, edit=changes).resid_final_BTD
    return unembed(model, jnp.take_along_axis(resid_QTD, texts.read_QA[..., None], 1))


def answer_nll(model: Model, texts: Texts, changes: Changes | None = None) -> Float[Array, ""]:
    """−log P of each text's answer, divided by its tokens; the mean over texts."""
    log_p_QAV = jax.nn.log_softmax(answer_logits(model, texts, changes))
    log_p_QA = jnp.take_along_axis(log_p_QAV, texts.target_QA[..., None], -1)[..., 0]
    return -((log_p_QA * texts.weight_QA).sum(1) / texts.weight_QA.sum(1)).mean()
