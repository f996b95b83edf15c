"""What the parts of the objective each do: the main job with one of them changed at a time."""

import dataclasses
from pathlib import Path

from jaxinterp.cli.run import experiment
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.studies.suppressability.presets import PLAIN, SUPPRESSABLE
from jaxinterp.training.config import TrainConfig


def _with(*without: str, **objective: object) -> TrainConfig:
    """The suppressable model's config without some terms, and with other parts of its objective changed."""
    weights = {name: weight for name, weight in SUPPRESSABLE.objective.weights.items() if name not in without}
    changed = dataclasses.replace(SUPPRESSABLE.objective, weights=weights, **objective)
    return dataclasses.replace(SUPPRESSABLE, objective=changed)


MODELS = {
    "plain": PLAIN,
    "suppressable": SUPPRESSABLE,
    "straight_through": _with(select="straight_through"),
    "other_relations": _with(control_kinds=("other",)),
    "no_control": _with("control"),
    "no_suppression": _with("suppression"),
}


@dataclasses.dataclass(frozen=True)
class Ablations:
    """Compare the suppressable model with a gradient through the mask, controls of one kind, and without each term."""

    out: Path = Path("checkpoints/ablations")  # folder for results, report, charts and runs
    measure: MeasureConfig = MeasureConfig()

    def __call__(self) -> None:
        """Runs the experiment."""
        from jaxinterp.studies.suppressability.compare import compare

        compare(MODELS, self.measure, self.out)
        print(f"report: {self.out / 'report.html'}   numbers: {self.out / 'results.json'}")


if __name__ == "__main__":
    experiment(Ablations)
