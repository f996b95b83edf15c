"""`jaxinterp doctor`: whether this machine is fit, on the command line."""

import dataclasses
from pathlib import Path

from jaxinterp.base.errors import UserError


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Look at versions, devices, memory, arithmetic, folders and caches; status 2 if something is not fit."""

    folder: Path = Path("checkpoints")  # where runs are to be written

    def __call__(self) -> None:
        """Runs the command."""
        from rich.table import Column, Table

        from jaxinterp.base.doctor import examined
        from jaxinterp.base.tables import print_table

        table = Table("", "", Column("found", overflow="fold"))
        findings = examined(self.folder)
        for finding in findings:
            table.add_row("ok" if finding.good else "BAD", finding.what, finding.found)
        print_table(table)
        if bad := [finding.what for finding in findings if not finding.good]:
            raise UserError(f"not fit: {', '.join(bad)}")
