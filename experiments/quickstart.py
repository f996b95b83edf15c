"""The main job: a plain and a suppressable language model on the same facts, side by side.

Trains both from the same seed and data order, measures both on four sets of facts, prints a table, and writes
results.json, report.html, charts/ and the two runs.
"""

import dataclasses
from pathlib import Path

from jaxinterp.cli.run import experiment
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.studies.suppressability.presets import PLAIN, SUPPRESSABLE
from jaxinterp.training.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Quickstart:
    """Train a plain and a suppressable model on country facts and compare them."""

    out: Path = Path("checkpoints/quickstart")  # folder for results, report, charts and runs
    plain: TrainConfig = PLAIN
    suppressable: TrainConfig = SUPPRESSABLE
    measure: MeasureConfig = MeasureConfig()
    # Figures over seeds that this one seed's are set beside, if the file is there
    published: Path = Path("checkpoints/reference/published.json")

    def __call__(self) -> None:
        """Runs the experiment."""
        from jaxinterp.studies.suppressability.compare import compare

        configs = {"plain": self.plain, "suppressable": self.suppressable}
        compare(configs, self.measure, self.out, published=self.published if self.published.exists() else None)
        print(f"report: {self.out / 'report.html'}   numbers: {self.out / 'results.json'}")


if __name__ == "__main__":
    experiment(Quickstart)
