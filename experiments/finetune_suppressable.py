"""Fine-tune a pretrained model so that its facts sit in neurons of their own, and see what became of it.

Asks the model what it knows, keeps some known facts and relations from the objective, fine-tunes on the others while
the model stays as it is on neutral text, and measures it before and after. Writes report.html, results.json, charts/
and model/. With --folds, once for each fold of the known relations, so that each relation is unseen once, and pools
the figures.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxinterp.base.errors import UserError
from jaxinterp.cli.run import experiment
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.training.finetune_config import FinetuneConfig


@dataclasses.dataclass(frozen=True)
class FinetuneSuppressable:
    """Fine-tune a pretrained model to be suppressable, and measure it before and after."""

    config: Annotated[FinetuneConfig, tyro.conf.arg(name="")]
    # A name from `jaxinterp models list`, a folder, a .gguf file, or org/name of a hub
    model: str = "smollm2-135m-instruct-q4"
    out: Path = Path("checkpoints/finetuned")  # folder for results, charts and the run
    # Runs, each with another part of the known relations unseen; every relation is unseen once, and figures are pooled.
    # 1: one run, whose unseen relations are facts.unseen-relations, or drawn. At most half as many folds as relations,
    # so that an unseen relation has another one beside it
    folds: int = 1
    # Three Gauss-Legendre points choose nearly the neurons that many choose; the adaptive rule takes minutes a set
    measure: MeasureConfig = MeasureConfig(
        k=10, queries=100, ability_queries=200, ablation_queries=0, rule="gauss_legendre", points=3, controls=3
    )

    def __post_init__(self) -> None:
        if self.folds < 1:
            raise UserError(f"folds must be at least 1, got {self.folds}")

    def __call__(self) -> None:
        """Runs the experiment."""
        from jaxinterp.studies.suppressability.finetuning import finetuning_study
        from jaxinterp.studies.suppressability.finetuning_folds import finetuning_folds

        if self.folds == 1:
            finetuning_study(self.model, self.config, self.measure, self.out)
        else:
            finetuning_folds(self.model, self.config, self.measure, self.out, self.folds)
        models = self.out / ("model" if self.folds == 1 else "foldN/model")
        print(f"report: {self.out / 'report.html'}   numbers: {self.out / 'results.json'}   model: {models}")


if __name__ == "__main__":
    experiment(FinetuneSuppressable)
