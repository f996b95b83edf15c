"""What the meta-gradient and the control term each do: the main job with one of them changed at a time."""

import dataclasses
from pathlib import Path

from jaxinterp.cli import experiment
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.studies.presets import PLAIN, SUPPRESSABLE
from jaxinterp.training.config import TrainConfig


def _with(weights: dict[str, str] | None = None, **objective: object) -> TrainConfig:
    """The suppressable model's config with parts of its objective changed."""
    kept = SUPPRESSABLE.objective.weights if weights is None else weights
    return dataclasses.replace(
        SUPPRESSABLE, objective=dataclasses.replace(SUPPRESSABLE.objective, weights=kept, **objective)
    )


MODELS = {
    "plain": PLAIN,
    "suppressable": SUPPRESSABLE,
    "stop_gradient": _with(select="stop_gradient"),
    "no_control": _with({"suppression": SUPPRESSABLE.objective.weights["suppression"]}),
    "no_suppression": _with({"control": SUPPRESSABLE.objective.weights["control"]}),
}


@dataclasses.dataclass(frozen=True)
class Ablations:
    """Compare the suppressable model with detached selection, without control, and without suppression."""

    out: Path = Path("checkpoints/ablations")  # folder for results, report, charts and runs
    measure: MeasureConfig = MeasureConfig()

    def __call__(self) -> None:
        """Runs the experiment."""
        from jaxinterp.studies.compare import compare

        compare(MODELS, self.measure, self.out)
        print(f"report: {self.out / 'report.html'}   numbers: {self.out / 'results.json'}")


if __name__ == "__main__":
    experiment(Ablations)
