"""The loss on text that a model was not trained on: its cross-entropy on sentences says what it knows by heart."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.estimates import Estimates, estimate
from jaxinterp.metrics.measure import Measurement
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.likelihood import next_token_nll
from jaxinterp.models.mesh import beside
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward

TEXT_LOSS = "text_cross_entropy"


class HeldOutText(NamedTuple):
    """H windows of T tokens, without padding."""

    tokens_HT: Int[np.ndarray, "H T"]
    document_H: Int[np.ndarray, " H"]  # equal for windows of one document


def with_text(
    measurement: Measurement, model: LanguageModel, text: HeldOutText | None, config: MeasureConfig
) -> Measurement:
    """A measurement with `text_estimates` among the model's abilities; as it is where there is no text."""
    if text is None:
        return measurement
    return dataclasses.replace(
        measurement, ability={**measurement.ability, **text_estimates(model.model, text, config)}
    )


def text_estimates(model: Model, text: HeldOutText, config: MeasureConfig) -> dict[str, Estimates]:
    """The metric text_cross_entropy: Σ −log P / number of tokens that are predicted, over a sample of the windows.

    Windows of one document are no independent draws. So its documents stand where a relation's facts do in
    `jaxinterp.metrics.estimates.estimate`: replicates draw documents, and the interval leaves each out in turn.

    Args:
      model: a causal one.
      text: whose windows fit into the model's context.
      config: its `ability_queries` windows are measured, `rows` at a time; `seed` and `replicates` are those of facts.
    """
    order = np.random.default_rng(config.seed).permutation(len(text.tokens_HT))
    chosen = np.sort(order[: config.ability_queries or len(order)])
    tokens_HT, size = text.tokens_HT[chosen], min(config.rows, len(chosen))
    nll_H = np.zeros(len(chosen))
    for start in range(0, len(chosen), size):
        part = np.arange(start, min(start + size, len(chosen)))
        # The last batch is filled up: it shares what is compiled.
        batch_BT = beside(model.params, tokens_HT[np.resize(part, size)])
        nll_H[part] = np.asarray(_nll(model, batch_BT))[: len(part)]
    columns = {"text_nll": nll_H, "text_tokens": np.full(len(chosen), tokens_HT.shape[1] - 1.0)}
    names = ["text"] * len(chosen)
    return estimate(
        [TEXT_LOSS], columns, text.document_H[chosen], names, replicates=config.replicates, seed=config.seed
    )


@jax.jit
def _nll(model: Model, tokens_BT: Int[Array, "B T"]) -> Float[Array, " B"]:
    return next_token_nll(model, forward(model, tokens_BT), tokens_BT).sum(1)
