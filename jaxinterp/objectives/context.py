"""What the terms of an objective share: one forward, its readout, the attribution and the masks, each computed once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxinterp.attribution import Attribution, integrated_gradients
from jaxinterp.facts.encoding import QueryBatch
from jaxinterp.models.transformer import Edit, Forward
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.quadrature import random_offset
from jaxinterp.readout import Readout, answer_log_probability
from jaxinterp.selection import select
from jaxinterp.suppression import control_mask, suppress

MOST = 20.0  # nats, of a ratio of probabilities: where P has collapsed, the loss stays finite; training may not


@dataclasses.dataclass(frozen=True)
class Context:
    """One batch under the current parameters; every property is differentiable with respect to them."""

    config: ObjectiveConfig
    batch: QueryBatch
    forward: Forward
    readout: Readout
    key: PRNGKeyArray  # consumed by the attribution's random offset

    @functools.cached_property
    def attribution(self) -> Attribution:
        """Integrated gradients of every row."""
        rule = random_offset(self.key, self.config.points)
        # "auto" was decided before; see `jaxinterp.planner`.
        at_once = self.readout.shape[1] if self.config.memory == "flat" else None
        return integrated_gradients(self.readout, rule, path=self.config.path, at_once=at_once)

    @functools.cached_property
    def mask_LRF(self) -> Float[Array, "L R F"]:
        """Each row's knowledge neurons, or another fact's in their place."""
        config = self.config
        mask_LRF = select(config.select, self.attribution.scores_LRF, config.k, config.temperature)
        return mask_LRF if config.neurons == "own" else control_mask(mask_LRF, jnp.asarray(self.batch.control_XR)[0])

    @functools.cached_property
    def log_p_N(self) -> Float[Array, " N"]:
        """log P of the answers, untouched, in nats."""
        return self.log_probability(self.readout.untouched())

    def ratio(self, edit: Edit) -> Float[Array, " N"]:
        """P(edited) / sg(P) of every answer, at most e^`MOST`."""
        edited = self.log_probability(self.readout(*edit))
        return jnp.exp(jnp.minimum(edited - jax.lax.stop_gradient(self.log_p_N), MOST))

    def control_ratio(self, mask_LRF: Float[Array, "L R F"]) -> Float[Array, "X N"]:
        """P(without a control's neurons) / sg(P) of every answer, for each of its controls."""
        return jax.vmap(lambda control_R: self.ratio(suppress(control_mask(mask_LRF, control_R))))(
            jnp.asarray(self.batch.control_XR)
        )

    def log_probability(self, probability_R: Float[Array, " R"]) -> Float[Array, " N"]:
        """log P of the answers from their rows' probabilities, in nats."""
        batch = self.batch
        n_answers = batch.answer_weight_N.shape[0]
        return answer_log_probability(probability_R, batch.answer_R, batch.weight_R, n_answers)


def mean(values_N: Float[Array, "*N"], weight_N: Float[Array, "*N"]) -> Float[Array, ""]:
    """Weighted mean; 0 if all weights are 0."""
    return (values_N * weight_N).sum() / jnp.maximum(weight_N.sum(), 1)
