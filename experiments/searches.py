"""Does a search for suppressability and loss find designs that one for the loss alone does not, and chance does not?

Needs a study of all designs that is done (experiments/studies/designs.yaml), and repeats searches over its runs.
"""

import dataclasses
from pathlib import Path

from jaxinterp.cli.run import experiment


@dataclasses.dataclass(frozen=True)
class Searches:
    """Repeat searches over a study of all designs, and compare what they find."""

    designs: Path = Path("checkpoints/studies/designs")  # folder of a study of a grid that is done
    out: Path = Path("checkpoints/searches")  # folder for tables and the chart
    trials: int = 12  # designs that a search tries
    repeats: int = 20  # of each search, for each seed that it sees

    def __call__(self) -> None:
        """Runs the experiment."""
        from jaxinterp.studies.engine.searches import compare_searches

        compare_searches(self.designs, self.out, self.trials, self.repeats)
        print(f"searches: {self.out / 'searches.csv'}   chart: {self.out / 'searches.png'}")


if __name__ == "__main__":
    experiment(Searches)
