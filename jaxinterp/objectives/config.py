"""What is trained for besides language modelling; imports no JAX."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from jaxinterp.errors import UserError
from jaxinterp.schedule import parse_schedule


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """loss = LM + Σ weight · term, and how the terms find a fact's neurons."""

    # Weight of each term by step, e.g. "1" or "0@300,1@500": "suppression" is λ, "control" is μ; none is plain training
    weights: Mapping[str, str] = dataclasses.field(default_factory=dict)
    k: int = 8  # neurons suppressed for each answer token, out of all layers
    select: Literal["straight_through", "soft", "stop_gradient"] = "straight_through"  # how the k neurons are selected
    # Whose attribution selects the neurons of a fact. other: those of another fact of the batch, another one in every
    # batch, for comparison: the same pressure without knowing where the fact is
    neurons: Literal["own", "other"] = "own"
    temperature: float = 1.0  # of the soft selection, in root mean squares of a row's scores
    path: Literal["joint", "per_layer"] = "joint"  # of integrated gradients
    points: int = 4  # quadrature points of integrated gradients, with a random offset
    # fast holds all points in memory; flat one at a time, whatever their number, and computes each again in the
    # backward pass; auto is fast if that fits
    memory: Literal["auto", "fast", "flat"] = "auto"

    def __post_init__(self) -> None:
        for text in self.weights.values():
            parse_schedule(text)
        if self.points < 1:
            raise UserError(f"objective.points must be at least 1, got {self.points}")
        if self.temperature <= 0:
            raise UserError(f"objective.temperature must be above 0, got {self.temperature}")
        if self.k < 1:
            raise UserError(f"objective.k must be at least 1, got {self.k}")
