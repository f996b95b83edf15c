"""Fine-tune a pretrained model so that its facts sit in neurons of their own, and see what became of it.

Asks the model what it knows, keeps some known facts and relations from the objective, fine-tunes on the others while
the model stays as it is on neutral text, and measures it before and after. Writes results.json, charts/ and model/.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxinterp.cli.run import experiment
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.training.finetune_config import FinetuneConfig


@dataclasses.dataclass(frozen=True)
class FinetuneSuppressable:
    """Fine-tune a pretrained model to be suppressable, and measure it before and after."""

    config: Annotated[FinetuneConfig, tyro.conf.arg(name="")]
    model: str = "smollm2-135m"  # a name from `jaxinterp models list`, a folder, a .gguf file, or org/name of a hub
    out: Path = Path("checkpoints/finetuned")  # folder for results, charts and the run
    # Three Gauss-Legendre points choose nearly the neurons that many choose; the adaptive rule takes minutes a set
    measure: MeasureConfig = MeasureConfig(
        k=10, queries=100, ability_queries=200, ablation_queries=0, rule="gauss_legendre", points=3, controls=3
    )

    def __call__(self) -> None:
        """Runs the experiment."""
        from jaxinterp.studies.suppressability.finetuning import finetuning_study

        finetuning_study(self.model, self.config, self.measure, self.out)
        print(f"numbers: {self.out / 'results.json'}   charts: {self.out / 'charts'}   model: {self.out / 'model'}")


if __name__ == "__main__":
    experiment(FinetuneSuppressable)
