"""The configurations of the main job; imports no JAX."""

import dataclasses

from jaxinterp.facts.splits import SplitConfig
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.config import DataConfig, OptimiserConfig, TrainConfig

# Every relation about countries is unseen in one of five splits: what `jaxinterp.facts.folds.relation_folds` deals them
# into. Relations whose answers spell each other out stand in one fold: an internet domain, say, is nearly an ISO code.
FOLDS = (
    ("currency", "demonym", "official_language"),
    ("internet_domain", "iso_alpha_2", "iso_alpha_3"),
    ("capital", "capital_of"),
    ("continent", "subregion"),
    ("calling_code", "iso_numeric"),
)

# Running mean of P of the objective's facts at which it begins: about step 1,500, where the published models began
LEVEL = 0.35
RAMP = 300  # steps in which its weights then grow from 0

PLAIN = TrainConfig(
    preset="0.7m",
    # With ReLU fewer neurons are active at a time, and with weight decay relations share machinery: both help the
    # objective to reach relations that it never saw.
    model={"ffn": "relu"},
    data=DataConfig(domains=("countries",), split=SplitConfig(unseen_relations=FOLDS[0])),
    # A model must know facts before it can be made to give them up, so the objective begins when it knows them. A plain
    # model watches for that too: up to there the two are one.
    objective=ObjectiveConfig(start=LEVEL),
    optimiser=OptimiserConfig(learning_rate=6e-3, weight_decay=0.3),
    steps=3000,
    batch_size=32,
    rows=24,
    evaluate_every=1000,
    checkpoint_every=500,
    keep_checkpoints=6,  # all, so that the last one before the objective begins is among them
)

# λ, μ and the weight of concentration.
WEIGHTS = {"suppression": 0.3, "control": 0.9, "concentration": 0.1}
# The measurement takes 8 neurons: training with fewer for a fact's own leaves a margin, and so does training with more
# for those of other facts that must not matter.
SUPPRESSABLE = dataclasses.replace(
    PLAIN,
    objective=ObjectiveConfig(
        start=LEVEL,
        weights={name: f"0@0,{weight:g}@{RAMP}" for name, weight in WEIGHTS.items()},
        k=5,
        control_k=10,
        path="per_layer",
        points=2,
    ),
)
