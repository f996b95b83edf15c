"""The configurations of the main job; imports no JAX."""

import dataclasses

from jaxinterp.facts.facts import SplitConfig
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.config import DataConfig, OptimiserConfig, TrainConfig

# Two relations whose answers no other relation spells out: an internet domain, say, is nearly an ISO code.
UNSEEN_RELATIONS = ("currency", "calling_code")

PLAIN = TrainConfig(
    preset="0.7m",
    data=DataConfig(domains=("countries",), split=SplitConfig(unseen_relations=UNSEEN_RELATIONS)),
    optimiser=OptimiserConfig(learning_rate=6e-3),
    steps=3000,
    batch_size=32,
    rows=24,
)

# A model must know facts before it can be made to give them up, so the objective starts late.
SUPPRESSABLE = dataclasses.replace(
    PLAIN, objective=ObjectiveConfig(weights={"suppression": "0@400,1@600", "control": "0@400,1@600"})
)
