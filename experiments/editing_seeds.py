"""Models of several seeds, such as plain and suppressable ones, compared by how they can be edited.

Do suppressable models edit better and with less collateral? Does attribution say where an edit works, beyond the
layer? Do the values of knowledge neurons say the answer? Prints tables with intervals over seeds, and writes
report.html, results.json, seeds.csv and charts/. The same command goes on where it was.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxinterp.cli.run import experiment
from jaxinterp.studies.editing.seeds_config import EditingSeedsConfig


@dataclasses.dataclass(frozen=True)
class EditingSeeds:
    """Compare groups of models, whose members differ by seed, by how they can be edited."""

    config: Annotated[EditingSeedsConfig, tyro.conf.arg(name="")]
    out: Path = Path("checkpoints/editing_seeds")  # folder of the study; it goes on where it was

    def __call__(self) -> None:
        """Runs the experiment."""
        from jaxinterp.studies.editing.seeds import editing_seeds_study

        editing_seeds_study(self.config, self.out)


if __name__ == "__main__":
    experiment(EditingSeeds)
