"""Feed-forward neurons as memories: what triggers each of them, what its triggers share, and what its value does.

Finds the tokens on which every neuron of a model is most active, labels neurons by what these have in common, grades
the labels on planted triggers, and amplifies and switches off neurons to see whether the tokens of their values follow.
Prints tables, and writes results.json, neurons.csv and a page for each neuron.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxinterp.cli.run import experiment
from jaxinterp.memories.config import MemoriesConfig


@dataclasses.dataclass(frozen=True)
class MemoriesOfModel:
    """Look for the memories of a model."""

    config: Annotated[MemoriesConfig, tyro.conf.arg(name="")]
    out: Path = Path("checkpoints/memories")  # folder for results and pages; the same command goes on there

    def __call__(self) -> None:
        """Runs the experiment."""
        from jaxinterp.memories.study import memories_study

        memories_study(self.config, self.out)


if __name__ == "__main__":
    experiment(MemoriesOfModel)
