"""Which gradient makes facts suppressable: through the mask, through the scores, both, or none?

Trains the arms of `jaxinterp.studies.audit.meta_gradient` from several seeds, measures them by metrics that no loss has
in it, and judges them as the audit does. Goes on where it was when started again.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxinterp.cli.run import experiment
from jaxinterp.studies.audit.config import AuditConfig
from jaxinterp.studies.audit.meta_gradient import STUDY


@dataclasses.dataclass(frozen=True)
class MetaGradient:
    """Compare what the objective's gradient may pass through."""

    config: Annotated[AuditConfig, tyro.conf.arg(name="")] = STUDY
    out: Path = Path("checkpoints/meta_gradient")  # folder for runs, results and report
    workers: int = 1  # processes that share the seeds; on a CPU one a core is fastest

    def __call__(self) -> None:
        """Runs the experiment."""
        from jaxinterp.studies.audit.report import write_audit_report
        from jaxinterp.studies.audit.study import goodhart_audit

        results = goodhart_audit(self.config, self.out, workers=self.workers)
        write_audit_report(self.out / "report.html", results, None)
        print(f"report: {self.out / 'report.html'}   numbers: {self.out / 'results.json'}")


if __name__ == "__main__":
    experiment(MetaGradient)
