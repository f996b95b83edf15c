"""Knowledge neurons of a pretrained model: the protocol of Dai et al. 2021, and one with a fixed number of neurons.

Scores the neurons of every fact, switches them off and doubles them, against the activation baseline, random neurons
and those of other facts: of the same relation, of the same subject, and of neither. Prints tables, and writes
report.html, results.json, neurons.json and charts/. Interrupted, it goes on where it was when started again.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxinterp.cli.run import experiment
from jaxinterp.studies.knowledge_neurons.config import KnowledgeNeuronsConfig


@dataclasses.dataclass(frozen=True)
class KnowledgeNeurons:
    """Find the knowledge neurons of facts in a model, and what switching them off or doubling them does."""

    config: Annotated[KnowledgeNeuronsConfig, tyro.conf.arg(name="")]
    out: Path = Path("checkpoints/knowledge_neurons")  # folder of the study

    def __call__(self) -> None:
        """Runs the experiment."""
        from jaxinterp.studies.knowledge_neurons.study import study

        study(self.config, self.out)


if __name__ == "__main__":
    experiment(KnowledgeNeurons)
