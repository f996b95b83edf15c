"""What the terms of an objective share: one forward, its readout, the attribution and the masks, each computed once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxinterp.attribution.answers import Answers
from jaxinterp.attribution.edits import NeuronEdit, control_mask, suppress
from jaxinterp.attribution.integrated_gradients import Attribution, integrated_gradients
from jaxinterp.attribution.quadrature import random_offset
from jaxinterp.attribution.readout import Readout
from jaxinterp.attribution.selection import select
from jaxinterp.base.errors import UserError
from jaxinterp.facts.controls import CONTROL_KINDS
from jaxinterp.objectives.config import ObjectiveConfig

TINY = 1e-12  # of a sum of weights: nothing is divided by 0
LEAST = 0.3  # of P: positive scores sum up to at least so much, or shares of them explode where attribution vanishes
RANDOM = 16  # key of the neurons that are drawn for facts
MOST = 20.0  # nats, of a ratio of probabilities: where P has collapsed, the loss stays finite; training may not


@dataclasses.dataclass(frozen=True)
class Context:
    """One batch under the current parameters; every property is differentiable with respect to them."""

    config: ObjectiveConfig
    answers: Answers
    readout: Readout
    key: PRNGKeyArray  # of the attribution's random offset; for anything else a number of its own is folded in

    @functools.cached_property
    def attribution(self) -> Attribution:
        """Integrated gradients of every row."""
        rule = random_offset(self.key, self.config.points, self.readout.shape[1])
        # "auto" was decided before; see `jaxinterp.training.planner`.
        at_once = self.readout.shape[1] if self.config.memory == "flat" else None
        return integrated_gradients(self.readout, rule, path=self.config.path, at_once=at_once)

    @property
    def is_attributed(self) -> bool:
        """Whether something has asked for the attribution."""
        return "attribution" in vars(self)

    @functools.cached_property
    def scores_LRF(self) -> Float[Array, "L R F"]:
        """The attribution, summed over the rows of each answer."""
        return self.answers.scores(self.attribution.scores_LRF)

    @functools.cached_property
    def positive_LRF(self) -> Float[Array, "L R F"]:
        """A⁺: the positive part of the scores."""
        return jax.nn.relu(self.scores_LRF)

    @functools.cached_property
    def attributed_R(self) -> Float[Array, " R"]:
        """max(Σ A⁺, 0.3 sg P), which scores are shares of; the same for all rows of an answer."""
        floor_R = LEAST * self.known_N[jnp.asarray(self.answers.answer_R)]
        return jnp.maximum(jnp.maximum(self.positive_LRF.sum((0, 2)), floor_R), TINY)

    @functools.cached_property
    def known_R(self) -> Float[Array, " R"]:
        """`known_N` shared out among the rows of an answer, which have its scores in common."""
        answers = self.answers
        share_N = self.known_N / jnp.maximum(answers.length_N, 1)
        return share_N[jnp.asarray(answers.answer_R)] * jnp.asarray(answers.weight_R)

    @functools.cached_property
    def mask_LRF(self) -> Float[Array, "L R F"]:
        """The knowledge neurons of each row's answer, or another fact's in their place."""
        config = self.config
        fewer_R = None
        if config.least_k:
            drawn = jax.random.fold_in(self.key, 2), (self.answers.n,), config.least_k, config.k + 1
            fewer_R = jax.random.randint(*drawn)[jnp.asarray(self.answers.answer_R)]
        mask_LRF = select(config.select, self._ranking_LRF, config.k, config.temperature, fewer_R)
        if config.neurons != "other":
            return mask_LRF
        last = jnp.asarray(self.answers.control_XR)[-1]  # another relation's, another subject's
        return control_mask(mask_LRF, last)

    @functools.cached_property
    def control_mask_LRF(self) -> Float[Array, "L R F"]:
        """The neurons of each row's answer that are switched off for other answers."""
        config = self.config
        k = config.control_k or config.k
        alike = (k, config.control_select) == (config.k, config.select) and not config.least_k
        if config.neurons == "other" or alike:
            return self.mask_LRF
        return select(config.control_select, self._ranking_LRF, k, config.temperature)

    @property
    def _ranking_LRF(self) -> Float[Array, "L R F"]:
        """By what neurons are selected: the scores, or numbers that were drawn once for each fact."""
        if self.config.neurons != "random":
            return self.scores_LRF
        answers, (n_layers, _, n_neurons) = self.answers, self.readout.shape
        if answers.fact_N is None:
            raise UserError(
                "objective.neurons random needs to know which fact an answer is of: give Answers its fact_N"
            )
        key = jax.random.key(RANDOM)
        drawn_NLF = jax.vmap(lambda fact: jax.random.uniform(jax.random.fold_in(key, fact), (n_layers, n_neurons)))(
            jnp.asarray(answers.fact_N)
        )
        return drawn_NLF[jnp.asarray(answers.answer_R)].transpose(1, 0, 2).astype(self.scores_LRF.dtype)

    @functools.cached_property
    def log_p_N(self) -> Float[Array, " N"]:
        """log P of the answers, untouched, in nats."""
        return self.answers.log_probability(self.readout.untouched())

    @functools.cached_property
    def known_N(self) -> Float[Array, " N"]:
        """sg(P) of each answer, 0 for padding: what the terms weigh answers by, so that their means of ratios are the
        ratios of means that are measured. An answer that the model does not know has nothing to lose.
        """
        return jax.lax.stop_gradient(jnp.exp(self.log_p_N)) * self.answers.answer_weight_N

    def ratio(self, edit: NeuronEdit) -> Float[Array, " N"]:
        """P(edited) / sg(P) of every answer, at most e^`MOST`."""
        edited = self.answers.log_probability(self.readout(*edit))
        return jnp.exp(jnp.minimum(edited - jax.lax.stop_gradient(self.log_p_N), MOST))

    @functools.cached_property
    def suppressed_ratio_N(self) -> Float[Array, " N"]:
        """P(without an answer's own neurons) / sg(P)."""
        return self.ratio(suppress(self.mask_LRF))

    @functools.cached_property
    def control_ratio_XN(self) -> Float[Array, "X N"]:
        """P(without a control's neurons) / sg(P) of every answer, for each of its controls of `control_kinds`."""
        return jax.vmap(lambda control_R: self.ratio(suppress(control_mask(self.control_mask_LRF, control_R))))(
            self.control_XR
        )

    @property
    def control_XR(self) -> Int[Array, "X R"]:
        """The rows of each row's controls, of `control_kinds`."""
        return jnp.asarray(self.answers.control_XR)[self._chosen]

    @functools.cached_property
    def control_weight_XN(self) -> Float[Array, "X N"]:
        """sg(P) where an answer has that control, 0 elsewhere."""
        return jnp.asarray(self.answers.control_weight_XN)[self._chosen] * self.known_N[None]

    @property
    def _chosen(self) -> np.ndarray:
        """Which of the batch's controls are of the kinds that the config names: they come kind by kind."""
        of_each = self.answers.control_XR.shape[0] // len(CONTROL_KINDS)
        places = (CONTROL_KINDS.index(kind) * of_each + np.arange(of_each) for kind in self.config.control_kinds)
        return np.concatenate(list(places))

    def by_kind(self, values_XN: Float[Array, "X N"]) -> dict[str, Float[Array, ""]]:
        """Means over answers and their controls of each kind, weighed by sg(P); 0 where there is no such control."""
        kinds = self.config.control_kinds
        values_KN, weight_KN = (x.reshape(len(kinds), -1) for x in (values_XN, self.control_weight_XN))
        return {kind: mean(values_KN[i], weight_KN[i]) for i, kind in enumerate(kinds)}

    def over_kinds(self, values_XN: Float[Array, "X N"]) -> Float[Array, ""]:
        """Mean of `by_kind` over the kinds that the batch has."""
        there = self.by_kind(jnp.ones_like(values_XN))
        return sum(self.by_kind(values_XN).values()) / jnp.maximum(sum(there.values()), 1)


def mean(values_N: Float[Array, "*N"], weight_N: Float[Array, "*N"] | Float[np.ndarray, "*N"]) -> Float[Array, ""]:
    """Weighted mean; 0 if all weights are 0."""
    return (values_N * weight_N).sum() / jnp.maximum(weight_N.sum(), TINY)
