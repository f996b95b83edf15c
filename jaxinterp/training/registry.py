"""What is done to the parameters after every step, by name.

A transform is one file of `jaxinterp.training.transforms` with one decorated function; its name in
`OptimiserConfig.transforms` puts it around the optimiser.
"""

from collections.abc import Callable

import optax

from jaxinterp.base.errors import UserError
from jaxinterp.base.registry import Registry
from jaxinterp.models.config import ModelConfig

# (the optimiser so far, the text of the config, the model, steps of the run) -> the optimiser with what comes after it.
# It gets the optimiser, and does not merely follow it, because it may have to change its means along with parameters.
Transform = Callable[[optax.GradientTransformation, str, ModelConfig, int], optax.GradientTransformation]
TRANSFORMS: Registry[Transform] = Registry("transform of the optimiser", folder="jaxinterp.training.transforms")


def transform(name: str) -> Callable[[Transform], Transform]:
    """Registers a transform under a name that is not taken."""

    def register(made: Transform) -> Transform:
        TRANSFORMS.add(name, made, made.__module__)
        return made

    return register


def number_of(name: str, text: str) -> float:
    """The number that a transform is given; UserError if the text is none."""
    try:
        return float(text)
    except ValueError:
        raise UserError(f"optimiser.transforms.{name} must be a number, got {text!r}") from None
