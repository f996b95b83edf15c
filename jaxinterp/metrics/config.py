"""How a model is measured; imports no JAX."""

import dataclasses

from jaxinterp.attribution.config import Rule, check_integral
from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_numbers

# What a model can do, untouched: recall and cross-entropy of training sentences, cross-entropy of held-out text
ABILITY_SET = "ability"


@dataclasses.dataclass(frozen=True)
class MeasureConfig:
    """How much is measured, and how sure the intervals are."""

    k: int = 8  # neurons an answer, out of all layers
    queries: int = 400  # queries measured in each set, spread over its facts and relations; 0 is all
    # Training sentences on which cross-entropy and recall are measured, and windows of held-out text; 0 is all
    ability_queries: int = 4096
    ablation_queries: int = 48  # queries of each set measured with exact ablation as well; 0 is none
    rule: Rule = "midpoint"  # of the attribution's integral; it and the next two are flat, as results have them
    points: int = 20  # of the rule; adaptive takes as many as each layer needs
    tolerance: float = 0.01  # of adaptive: largest completeness residual of a layer, as a share of P on its path
    controls: int = 3  # other facts of each kind whose neurons are switched off, for each query
    rows: int = 64  # answer tokens at once
    replicates: int = 1000  # bootstrap replicates
    seed: int = 0  # of the sample, the controls, the random neurons and the bootstrap
    metrics: tuple[str, ...] = ()  # names of `jaxinterp metrics list`, or all; () are those that cost least

    def __post_init__(self) -> None:
        check_numbers(self, "measure.")
        if isinstance(self.metrics, str):
            raise UserError(f"measure.metrics must be several names, such as ({self.metrics!r},)")
        if self.seed < 0:
            raise UserError(f"measure.seed must be at least 0, got {self.seed}")
        check_integral(self.rule, self.points, self.tolerance, "measure.")
        for field in ("queries", "ability_queries", "ablation_queries"):
            if getattr(self, field) < 0:
                raise UserError(f"measure.{field} must be at least 0 (0 is all, or none), got {getattr(self, field)}")
        for field in ("controls", "rows", "replicates"):
            if getattr(self, field) < 1:
                raise UserError(f"measure.{field} must be at least 1, got {getattr(self, field)}")
