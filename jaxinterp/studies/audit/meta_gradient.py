"""The study that decides which gradient matters: through the mask, through the scores, both, or none.

Fixed before it is run; imports no JAX. Relations of all domains, a fifth of them unseen in turn; every arm learns the
same facts from the same seed, and starts from its seed's plain model.
"""

import dataclasses

from jaxinterp.facts.folds import COUNTRYGROUPS
from jaxinterp.facts.splits import SplitConfig
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.studies.audit.config import AuditConfig
from jaxinterp.studies.suppressability.presets import PLAIN
from jaxinterp.training.config import DataConfig, OptimiserConfig

# Relations of all domains of WorldFacts whose answers spell each other out, or are each other's inverse.
APART = (
    (*COUNTRYGROUPS[0], "language_code"),
    COUNTRYGROUPS[1],
    COUNTRYGROUPS[2],
    (*COUNTRYGROUPS[3], "subdivision_country", "city_country"),
    ("element_symbol", "element_of_symbol"),
    ("atomic_number", "element_of_number", "element_group"),
    ("element_block", "crystal_structure"),
    ("state_abbreviation", "state_of_abbreviation", "subdivision_code"),
    ("currency_code", "currency_of_code"),
)
# What `jaxinterp.facts.folds.relation_folds` deals the 42 relations of WorldFacts into (a test).
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
ARMS = (
    *("plain", "suppressable", "detached_scores", "straight_through", "detached"),
    *("concentration", "margin", "random", "other_fact"),
)
STUDY = AuditConfig(
    run=dataclasses.replace(
        PLAIN,
        data=DataConfig(domains=(), limit=48, split=SplitConfig(unseen_relations=FOLDS[0])),
        # Slower than it could learn: knowing facts early and keeping them costs P less.
        optimiser=OptimiserConfig(learning_rate=4e-3, weight_decay=0.2, clip_norm=5.0),
        steps=3600,
        checkpoint_every=200,
    ),
    level=0.7,
    objective=ObjectiveConfig(
        weights={"suppression": "0.3", "control": "1", "concentration": "0.1", "margin": "0.1"},
        k=3,
        control_k=16,  # above the 8 that are measured
        path="joint",
        points=2,
    ),
    # Tuned in one round, on two seeds with divisions of their own (run.seed = run.data.split.seed = 100): all arms were
    # trained there at the same μ, and their C_relation and C_subject on unseen facts and C_relation on unseen relations
    # came to 9.2 % (both), 7.6 % (scores), 8.6 % (mask) and 7.2 % (none) on average.
    control={"detached_scores": 0.8, "straight_through": 0.9, "detached": 0.7},
    folds=FOLDS,
    arms=ARMS,
)
