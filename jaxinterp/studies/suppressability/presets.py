"""The configurations of the main job; imports no JAX."""

import dataclasses

from jaxinterp.facts.splits import SplitConfig
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.config import DataConfig, OptimiserConfig, TrainConfig

# Every relation of WorldFacts is unseen in one of five splits: what `jaxinterp.facts.folds.relation_folds` deals the 42
# into. Relations whose answers spell each other out stand in one fold: an internet domain, say, is nearly an ISO code.
FOLDS = (
    (
        *("airport_code", "capital", "capital_of", "city_country", "currency_code", "currency_of_code"),
        *("language_short_code", "state_number", "subdivision_country"),
    ),
    (
        *("airport_time_zone", "atomic_weight", "calling_code", "currency_number", "internet_domain"),
        *("iso_alpha_2", "iso_alpha_3", "iso_numeric", "language_code"),
    ),
    (
        *("airport_icao", "continent", "county_state", "element_period", "state_abbreviation"),
        *("state_of_abbreviation", "subdivision_code", "subregion"),
    ),
    (
        *("currency", "demonym", "element_of_symbol", "element_symbol", "official_language", "script_code"),
        *("script_number", "subdivision_type"),
    ),
    (
        *("airport_city", "airport_country", "atomic_number", "city_time_zone", "crystal_structure"),
        *("element_block", "element_group", "element_of_number"),
    ),
)

# Running mean of P of the objective's facts at which it begins, about half of the steps: a model must know facts before
# it can be made to give them up, and begun earlier the objective costs P.
LEVEL = 0.7
RAMP = 300  # steps in which its weights then grow from 0

PLAIN = TrainConfig(
    preset="0.7m",
    # With ReLU fewer neurons are active at a time, and with weight decay relations share machinery: both help the
    # objective to reach relations that it never saw.
    model={"ffn": "relu"},
    # Relations of all domains, capped so that none of them prevails; about the same subjects, so that facts about one
    # subject can be kept apart.
    data=DataConfig(domains=(), limit=48, split=SplitConfig(unseen_relations=FOLDS[0])),
    # A plain model watches for the beginning, too: up to there the two are one.
    objective=ObjectiveConfig(start=LEVEL),
    # Slower than it could learn: knowing facts early and keeping them costs P less.
    optimiser=OptimiserConfig(learning_rate=4e-3, weight_decay=0.2, clip_norm=5.0),
    steps=3600,
    batch_size=32,
    rows=24,
    evaluate_every=1200,
    checkpoint_every=200,
    keep_checkpoints=18,  # all, so that the last one before the objective begins is among them
)

# λ and μ; of the registered study, see `jaxinterp.studies.audit.meta_gradient`.
WEIGHTS = {"suppression": 0.3, "control": 0.7}
# The measurement takes 8 neurons: training with fewer for a fact's own leaves a margin, and so does training with more
# for those of other facts that must not matter. No gradient passes through the attribution, which picks the neurons
# anew in every step: none that was tried is worth its price.
SUPPRESSABLE = dataclasses.replace(
    PLAIN,
    objective=ObjectiveConfig(
        start=LEVEL,
        weights={name: f"0@0,{weight:g}@{RAMP}" for name, weight in WEIGHTS.items()},
        k=3,
        control_k=16,
        select="stop_gradient",
        path="joint",
        points=2,
    ),
)
