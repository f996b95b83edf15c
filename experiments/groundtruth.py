"""Planted ground truth: which attribution method finds the neurons that are known to carry a fact?

Models are written by hand, trained with gradient routing and, with --tracr, compiled from a program, so that their
responsible neurons are known. Prints precision and AUROC of every method on each, and writes report.html and
results.json.
"""

import dataclasses
from pathlib import Path

from jaxinterp.cli.run import experiment


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """Judge attribution methods on models whose responsible neurons are known."""

    out: Path = Path("checkpoints/groundtruth")  # folder for results and charts
    seeds: int = 5  # models of each kind: 24 facts, and where their neurons stand
    tracr: bool = False  # also a program compiled by tracr; needs the extra groundtruth

    def __call__(self) -> None:
        """Runs the experiment."""
        from jaxinterp.studies.groundtruth.study import ground_truth_study

        ground_truth_study(self.seeds, self.out, tracr=self.tracr)
        print(f"report: {self.out / 'report.html'}   numbers: {self.out / 'results.json'}")


if __name__ == "__main__":
    experiment(GroundTruth)
