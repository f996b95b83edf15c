"""Does the audit convict relation switches, and acquit fact neurons?

Both kinds of model are written by hand, so that the right verdict is known. Prints suppressability, every kind of
control drop and the verdicts, and writes results.json.
"""

import dataclasses
from pathlib import Path

from jaxinterp.cli.run import experiment


@dataclasses.dataclass(frozen=True)
class PlantsAudit:
    """Judge the audit on models whose right verdict is known."""

    out: Path = Path("checkpoints/plants_audit")  # folder for results
    seeds: int = 8  # models of each plant

    def __call__(self) -> None:
        """Runs the experiment."""
        from jaxinterp.studies.audit.plants import PlantsConfig, plants_audit

        plants_audit(PlantsConfig(seeds=self.seeds), self.out)
        print(f"numbers: {self.out / 'results.json'}")


if __name__ == "__main__":
    experiment(PlantsAudit)
