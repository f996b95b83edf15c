"""The main job's figures over seeds: what the quickstart sets its one seed beside.

Measures the plain and suppressable models that experiments/meta_gradient.py trained, as the quickstart measures its
own, and writes means over seeds with their intervals, and where a single seed is expected.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxinterp.cli.run import experiment
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.studies.audit.config import AuditConfig
from jaxinterp.studies.audit.meta_gradient import STUDY


@dataclasses.dataclass(frozen=True)
class Publish:
    """Measure a study's models over seeds."""

    config: Annotated[AuditConfig, tyro.conf.arg(name="")] = STUDY
    study: Path = Path("checkpoints/meta_gradient")  # folder of the study
    arm: str = "detached"  # of it, whose models are the main job's suppressable ones
    out: Path = Path("checkpoints/reference/published.json")  # file of figures
    main_measure: MeasureConfig = MeasureConfig()  # how the quickstart measures

    def __call__(self) -> None:
        """Runs the experiment."""
        from jaxinterp.studies.suppressability.published import publish

        publish(self.config, self.study, self.arm, self.out, self.main_measure)
        print(f"figures: {self.out}")


if __name__ == "__main__":
    experiment(Publish)
