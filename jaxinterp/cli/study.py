"""`jaxinterp study run|work|submit|status|report|verify`: studies that several workers share, on the command line."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxinterp.base.configs import merged
from jaxinterp.base.errors import UserError
from jaxinterp.cli.options import read_options

Folder = Annotated[Path, tyro.conf.Positional]


@dataclasses.dataclass(frozen=True)
class RunStudy:
    """Begin a study, or go on with it, and work on it until it is done."""

    config: Annotated[Path, tyro.conf.Positional]  # YAML or JSON file of the study
    out: Path  # folder of the study, which all of its workers see
    scale: str = ""  # one of the file's scales, such as smoke

    def __call__(self) -> None:
        """Runs the command."""
        from jaxinterp.studies.engine.config import study_of
        from jaxinterp.studies.engine.work import run_study

        config = study_of(study_fields(self.config), str(self.config), self.scale)
        _told(run_study(config, self.out), self.out)


@dataclasses.dataclass(frozen=True)
class Work:
    """Work on a study that was begun, beside any number of other workers, until no trial is left."""

    folder: Folder

    def __call__(self) -> None:
        """Runs the command."""
        from jaxinterp.studies.engine.work import work

        _told(work(self.folder), self.folder)


@dataclasses.dataclass(frozen=True)
class Submit:
    """Submit workers on a study that was begun to Slurm, as one array of jobs (pip install 'jaxinterp[slurm]')."""

    folder: Folder
    workers: int  # jobs
    hours: float  # until a job is ended; another worker goes on with what it was at
    gpus: int = 0  # of each job
    partition: str = ""  # of Slurm; by default Slurm's own
    cluster: Literal["slurm", "local"] = "slurm"  # local: processes on this machine, to try it

    def __call__(self) -> None:
        """Runs the command."""
        from jaxinterp.studies.engine.submit import JOBS, submit

        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        jobs = submit(**options)
        print(f"submitted: {', '.join(jobs)}   what they print: {self.folder / JOBS}")


@dataclasses.dataclass(frozen=True)
class Status:
    """Print how far a study is."""

    folder: Folder

    def __call__(self) -> None:
        """Runs the command."""
        from jaxinterp.report.shown import print_parts
        from jaxinterp.studies.engine.results import status_parts

        print_parts(status_parts(self.folder))


@dataclasses.dataclass(frozen=True)
class ReportStudy:
    """Print what a study has so far, and write it as a page with charts and their data."""

    folder: Folder

    def __call__(self) -> None:
        """Runs the command."""
        from jaxinterp.studies.engine.page import write_report

        path = write_report(self.folder)
        print(f"report: {path}   figures: {path.parent / 'figures'}")


@dataclasses.dataclass(frozen=True)
class VerifyStudy:
    """Check every result of a study, and compute one run once more; status 2 if anything differs."""

    folder: Folder
    run: str = ""  # key of the run, a folder in runs; by default one is drawn

    def __call__(self) -> None:
        """Runs the command."""
        from jaxinterp.studies.engine.points import point_words
        from jaxinterp.studies.engine.verify import verify_study

        result = verify_study(self.folder, self.run)
        words = f"{point_words(result.point)}, seed {result.seed}"
        print(f"all results are intact; run {result.record['key']} ({words}) is reproduced bit for bit")


Command = (
    Annotated[RunStudy, tyro.conf.subcommand("run")]
    | Annotated[Work, tyro.conf.subcommand("work")]
    | Annotated[Submit, tyro.conf.subcommand("submit")]
    | Annotated[Status, tyro.conf.subcommand("status")]
    | Annotated[ReportStudy, tyro.conf.subcommand("report")]
    | Annotated[VerifyStudy, tyro.conf.subcommand("verify")]
)


@dataclasses.dataclass(frozen=True)
class Study:
    """Studies: many training runs that several workers share, and what they say of hypotheses."""

    command: Annotated[Command, tyro.conf.arg(name="")]

    def __call__(self) -> None:
        """Runs the command."""
        self.command()


def study_fields(path: Path, below: tuple[Path, ...] = ()) -> Mapping[str, Any]:
    """The fields in a study's file, on top of those of the file that it `extends`, if it does.

    Args:
      path: YAML or JSON; `extends` is a path from its folder.
      below: files that extend this one.
    Raises:
      UserError: if a file cannot be read, or extends itself.
    """
    fields = dict(read_options(path))
    if "extends" not in fields:
        return fields
    parent = path.parent / str(fields.pop("extends"))
    if parent.resolve() in (path.resolve(), *below):
        raise UserError(f"{path} extends {parent}, which extends it; leave out one of the two")
    return merged(study_fields(parent, (*below, path.resolve())), fields)


def _told(n_done: int, folder: Path) -> None:
    print(f"{n_done} trials finished here   state: jaxinterp study status {folder}   page: … report {folder}")
