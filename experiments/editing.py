"""Ways to edit facts, compared on one model: single edits, a batch, and edits one after the other.

Prints tables and writes report.html, results.json, CSV and charts/ to a folder. What is done is kept edit by edit: the
same command goes on with it.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxinterp.cli.run import experiment
from jaxinterp.studies.editing.config import EditingConfig


@dataclasses.dataclass(frozen=True)
class Editing:
    """Compare ways to edit facts."""

    config: Annotated[EditingConfig, tyro.conf.arg(name="")]
    out: Path = Path("checkpoints/editing")  # folder of the study; it goes on where it was

    def __call__(self) -> None:
        """Runs the experiment."""
        from jaxinterp.studies.editing.study import study

        study(self.config, self.out)


if __name__ == "__main__":
    experiment(Editing)
