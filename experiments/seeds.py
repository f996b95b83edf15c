"""How much the figures of the main job depend on the seed: several seeds of several weights, trained in one program.

Prints suppressability S and control drop C with their spread over seeds, and writes report.html, results.json and the
models. It goes on where it was when started again.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxinterp.cli.run import experiment
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.studies.suppressability.presets import RAMP, SUPPRESSABLE, WEIGHTS
from jaxinterp.training.ensemble_config import EnsembleConfig

# The main job's schedules at a height of 1, which λ and μ multiply.
SCHEDULES = {name: f"0@0,1@{RAMP}" for name in ("suppression", "control")}
ENSEMBLE = EnsembleConfig(
    run=dataclasses.replace(SUPPRESSABLE, objective=dataclasses.replace(SUPPRESSABLE.objective, weights=SCHEDULES)),
    seeds=4,
    weights=((0.0, 0.0), (WEIGHTS["suppression"], WEIGHTS["control"])),
)


@dataclasses.dataclass(frozen=True)
class Seeds:
    """Train every seed with every pair of weights (λ, μ) in one program, and show the spread over seeds."""

    config: Annotated[EnsembleConfig, tyro.conf.arg(name="")] = ENSEMBLE
    out: Path = Path("checkpoints/seeds")  # folder for results and models
    measure: MeasureConfig = MeasureConfig(ablation_queries=0)

    def __call__(self) -> None:
        """Runs the experiment."""
        from jaxinterp.studies.suppressability.seeds import seeds_study

        seeds_study(self.config, self.measure, self.out)
        print(
            f"report: {self.out / 'report.html'}   numbers: {self.out / 'results.json'}   models: {self.out / 'models'}"
        )


if __name__ == "__main__":
    experiment(Seeds)
