"""The configurations of the main job; imports no JAX."""

import dataclasses

from jaxinterp.facts.facts import SplitConfig
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.config import DataConfig, OptimiserConfig, TrainConfig

# Two relations whose answers no other relation spells out: an internet domain, say, is nearly an ISO code.
UNSEEN_RELATIONS = ("currency", "calling_code")

PLAIN = TrainConfig(
    preset="0.7m",
    # With ReLU fewer neurons are active at a time, and with weight decay relations share machinery: both help the
    # objective to reach relations that it never saw.
    model={"ffn": "relu"},
    data=DataConfig(domains=("countries",), split=SplitConfig(unseen_relations=UNSEEN_RELATIONS)),
    optimiser=OptimiserConfig(learning_rate=6e-3, weight_decay=0.3),
    steps=3000,
    batch_size=32,
    rows=24,
    evaluate_every=1000,
    checkpoint_every=500,
)

# A model must know facts before it can be made to give them up, so the objective starts late. The measurement takes 8
# neurons; training with fewer leaves a margin.
SUPPRESSABLE = dataclasses.replace(
    PLAIN,
    objective=ObjectiveConfig(
        weights={"suppression": "0@700,0.3@900", "control": "0@700,0.3@900"}, k=5, path="per_layer", points=2
    ),
)
