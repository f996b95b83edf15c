"""The two arms of `one_program.py`: an ensemble's step, and the steps of as many models in turn."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness import Arm, compiled
from training_arms import OPTIMISER, STEPS

from jaxinterp.models.config import ModelConfig


class Training:
    """One compiled program and the states that it steps, one or more a step."""

    def __init__(self, step: Callable, states: Sequence[Any], data: Any, steps: int) -> None:
        import jax.numpy as jnp

        self.program, self.compile_s = compiled(step, states[0], data, jnp.int32(0))
        self.states, self.data, self.steps, self.number = list(states), data, steps, 0

    def step(self) -> list[Any]:
        """A step of every state; returns their metrics."""
        import jax.numpy as jnp

        number, found = jnp.int32(self.number), []
        for index, state in enumerate(self.states):
            self.states[index], metrics = self.program(state, self.data, number)
            found.append(metrics)
        self.number += 1
        return found

    def losses(self) -> Any:
        """Of all models in the step that is next, which is done."""
        import numpy as np

        return np.concatenate([np.atleast_1d(metrics["loss"]) for metrics in self.step()])

    def arm(self) -> Arm:
        """For the harness."""
        import jax

        def run() -> None:
            for _ in range(self.steps):
                self.step()
            jax.block_until_ready(self.states)

        return Arm(run, self.steps, self.compile_s)


def together(model: ModelConfig, terms: Mapping, height: float, data: Any, seeds: int, steps: int) -> Training:
    """All models in one program; both weights are `height`."""
    from jaxinterp.objectives.config import ObjectiveConfig
    from jaxinterp.training.config import TrainConfig
    from jaxinterp.training.ensemble import ensemble_step, stacked
    from jaxinterp.training.ensemble_config import EnsembleConfig

    run = TrainConfig(objective=ObjectiveConfig(weights=terms), optimiser=OPTIMISER, steps=STEPS)
    config = EnsembleConfig(run, seeds, ((height, height),))
    return Training(ensemble_step(model, config), [stacked(_states(model, seeds))], data, steps)


def one_after_another(model: ModelConfig, terms: Mapping, height: float, data: Any, seeds: int, steps: int) -> Training:
    """Each model by itself."""
    from jaxinterp.objectives.config import ObjectiveConfig
    from jaxinterp.training.step import train_step

    weights = terms if height else {}
    return Training(
        train_step(model, ObjectiveConfig(weights=weights), OPTIMISER, STEPS), _states(model, seeds), data, steps
    )


def _states(model: ModelConfig, seeds: int) -> list[Any]:
    from jaxinterp.training.state import initial_state

    return [initial_state(model, OPTIMISER, STEPS, seed) for seed in range(seeds)]
