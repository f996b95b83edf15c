"""What is trained for besides language modelling; imports no JAX."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.base.schedule import parse_schedule
from jaxinterp.facts.controls import CONTROL_KINDS, Kind


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """loss = LM + Σ weight · term, and how the terms find a fact's neurons."""

    # Weight of each term by steps from the beginning, e.g. "1" or "0@0,1@300": "suppression" is λ, "control" is μ; none
    # is plain training
    weights: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # The beginning: the first step in which the mean P of the answers that the objective reads, a running mean over
    # batches, reaches this level, in [0, 1); all weights are 0 up to it. 0: the first step of the run
    start: float = 0.0
    # The terms are computed in one step of so many, where their weights count as many times: the mean gradient is the
    # same, at less cost
    every: int = 1
    k: int = 8  # neurons suppressed for each answer, out of all layers
    # Neurons suppressed for an answer are drawn anew in every step from least_k … k, so that one neuron counts as well
    # as k do. 0: always k
    least_k: int = 0
    # Neurons of another fact that the control term switches off; above k, so that an answer is kept apart from what is
    # nearly among them, too. 0: k
    control_k: int = 0
    # Whose neurons those are; see `jaxinterp.facts.controls`. Without one of the kinds its door stays open
    control_kinds: tuple[Kind, ...] = CONTROL_KINDS
    select: Literal["straight_through", "soft", "stop_gradient"] = "straight_through"  # how the k neurons are selected
    # Whose attribution selects the neurons of a fact. other: those of another fact of the batch, another one in every
    # batch, for comparison: the same pressure without knowing where the fact is. random: neurons that were drawn once
    # for each fact, so that it can learn to be there
    neurons: Literal["own", "other", "random"] = "own"
    control_select: Literal["straight_through", "soft", "stop_gradient"] = "stop_gradient"  # and those of the control
    temperature: float = 0.1  # of the soft selection, in k-th highest scores
    path: Literal["joint", "per_layer"] = "joint"  # of integrated gradients
    points: int = 4  # quadrature points of integrated gradients, with a random offset for each row
    # fast holds all points in memory; flat one at a time, whatever their number, and computes each again in the
    # backward pass; auto is fast if that fits
    memory: Literal["auto", "fast", "flat"] = "auto"

    def __post_init__(self) -> None:
        check_numbers(self, "objective.")
        for name, text in self.weights.items():
            if not isinstance(text, str):
                raise UserError(
                    f'objective.weights: the weight of {name} must be text, such as "1" or "0@300,1@500", got {text!r}'
                )
            parse_schedule(text)
        if not 0 <= self.start < 1:
            raise UserError(
                f"objective.start is a probability: at least 0 (the first step) and below 1, got {self.start}"
            )
        if self.every < 1:
            raise UserError(f"objective.every must be at least 1, got {self.every}")
        if self.points < 1:
            raise UserError(f"objective.points must be at least 1, got {self.points}")
        if self.temperature <= 0:
            raise UserError(f"objective.temperature must be above 0, got {self.temperature}")
        if self.k < 1:
            raise UserError(f"objective.k must be at least 1, got {self.k}")
        if not 0 <= self.least_k <= self.k:
            raise UserError(
                f"objective.least_k must be at least 0 (0 is k) and at most k = {self.k}, got {self.least_k}"
            )
        if self.control_k < 0:
            raise UserError(f"objective.control_k must be at least 0 (0 is k), got {self.control_k}")
        for kind in self.control_kinds:
            if kind not in CONTROL_KINDS:
                raise unknown("kind of control", kind, CONTROL_KINDS)
        if not self.control_kinds:
            raise UserError(f"objective.control_kinds must name some of {', '.join(CONTROL_KINDS)}, got none")
