"""What tests of training share: few made-up facts, and an evaluation small enough for a run of a few steps."""

from synthetic import SyntheticConfig, SyntheticFacts

from jaxinterp.facts.splits import SplitConfig
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.training.config import DataConfig
from jaxinterp.training.data import TrainingData, data_of_facts

DATA = DataConfig(split=SplitConfig(n_unseen_relations=2))
SMALL_EVALUATION = MeasureConfig(queries=8, ability_queries=16, ablation_queries=0, rows=8, replicates=10)


def made_up_data() -> TrainingData:
    """Of 72 facts, two of whose six relations are unseen."""
    facts = SyntheticFacts(SyntheticConfig(n_subjects=12, n_relations=6, n_answers=8, n_prompts=5)).fact_set()
    return data_of_facts(facts, DATA)
