"""Does training for suppressability make models more interpretable, or only the number?

Trains groups of models of several seeds, with the objective, without it, and with objectives built to cheat; measures
them by metrics that no loss has in it; and says improved or Goodharted by a rule that is fixed before. Goes on where it
was when started again.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxinterp.cli.run import experiment
from jaxinterp.studies.audit.config import AuditConfig


@dataclasses.dataclass(frozen=True)
class GoodhartAudit:
    """Train, measure and judge groups of models."""

    config: Annotated[AuditConfig, tyro.conf.arg(name="")] = AuditConfig()
    out: Path = Path("checkpoints/audit")  # folder for runs, results and report
    workers: int = 1  # processes that share the seeds; on a CPU one a core is fastest
    # Folder that experiments/groundtruth.py wrote, whose table the page shows if it is there
    ground_truth: Path = Path("checkpoints/groundtruth")

    def __call__(self) -> None:
        """Runs the experiment."""
        from jaxinterp.base.files import read_json
        from jaxinterp.studies.audit.report import write_audit_report
        from jaxinterp.studies.audit.study import goodhart_audit

        results = goodhart_audit(self.config, self.out, workers=self.workers)
        truth = self.ground_truth / "results.json"
        write_audit_report(self.out / "report.html", results, read_json(truth) if truth.exists() else None)
        print(f"report: {self.out / 'report.html'}   numbers: {self.out / 'results.json'}")


if __name__ == "__main__":
    experiment(GoodhartAudit)
