"""How often does the audit's verdict err, and how often does it find what is there?

Simulates audits whose truth is known, over effect sizes, seeds, correlations, numbers of facts and relations, and has
the audit's own rule judge them. Prints tables and writes results.json.
"""

import dataclasses
from pathlib import Path

from jaxinterp.cli.run import experiment


@dataclasses.dataclass(frozen=True)
class VerdictRates:
    """Measure error rates and power of the audit's verdict."""

    out: Path = Path("checkpoints/verdict_rates")  # folder for the results
    simulations: int = 1000  # of each row of a table
    seed: int = 0

    def __call__(self) -> None:
        """Runs the experiment."""
        from jaxinterp.base.files import writable_folder, write_json
        from jaxinterp.base.provenance import provenance
        from jaxinterp.studies.audit.simulation import operating_characteristics, print_rates

        writable_folder(self.out)
        rows = operating_characteristics(self.simulations, self.seed)
        write_json(self.out / "results.json", {"rows": rows, "provenance": provenance()})
        print_rates(rows)
        print(f"numbers: {self.out / 'results.json'}")


if __name__ == "__main__":
    experiment(VerdictRates)
