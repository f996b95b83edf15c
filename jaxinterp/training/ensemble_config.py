"""Which models are trained together; imports no JAX."""

import dataclasses

from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.training.config import TrainConfig

TERMS = ("suppression", "control")  # λ's and μ's


@dataclasses.dataclass(frozen=True)
class Member:
    """One model of an ensemble."""

    seed: int  # of initialisation and quadrature offsets
    suppression: float | None = None  # λ, times its schedule; None: the weights are those of the run
    control: float | None = None  # μ, times its schedule

    @property
    def name(self) -> str:
        """Of its folder and in results."""
        return f"{self.setting}-seed{self.seed}" if self.setting else f"seed{self.seed}"

    @property
    def has_terms(self) -> bool:
        """Whether a term of the objective may have a weight."""
        return self.suppression is None or bool(self.suppression or self.control)

    @property
    def setting(self) -> str:
        """What members that differ by seed alone have in common; "" if that is all there is."""
        return "" if self.suppression is None else f"lambda{self.suppression:g}-mu{self.control:g}"


@dataclasses.dataclass(frozen=True)
class EnsembleConfig:
    """Every seed, with every pair of weights if there are any, trained in one program."""

    # What all share; its seed is the first one, and fixes the order of the data for all. The schedules in
    # objective.weights are multiplied by each member's λ and μ.
    run: TrainConfig = TrainConfig()
    seeds: int = 4  # number of seeds, from run.seed upwards
    # Pairs (λ, μ); (0, 0) is plain training. (): all have the weights of `run`, whatever its terms
    weights: tuple[tuple[float, float], ...] = ((0.0, 0.0), (1.0, 1.0))

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.seeds < 1:
            raise UserError(f"seeds must be at least 1, got {self.seeds}")
        if len(set(self.weights)) != len(self.weights):
            raise UserError(f"weights must be pairs (λ, μ), each once, got {self.weights}")
        if self.run.accumulate > 1 or self.run.skip or self.run.keep_best:
            raise UserError(
                "an ensemble takes no accumulate, skip or keep_best; train its members one by one for these"
            )
        if self.weights and set(self.run.objective.weights) != set(TERMS):
            raise UserError(
                f"an ensemble needs a schedule for each of {', '.join(TERMS)} in objective.weights, and no other, got "
                f"{dict(self.run.objective.weights)}"
            )

    @property
    def members(self) -> tuple[Member, ...]:
        """All models, those of a pair of weights side by side."""
        seeds = range(self.run.seed, self.run.seed + self.seeds)
        return tuple(Member(seed, *pair) for pair in self.weights or ((),) for seed in seeds)
