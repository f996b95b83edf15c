"""Workers of a study as jobs of Slurm, by submitit, which is not needed otherwise."""

import sys
from pathlib import Path
from typing import Literal

from jaxinterp.base.errors import UserError
from jaxinterp.studies.engine.storage import config_of

JOBS = "submitit"  # folder in the study's, of what the jobs print


def submit(
    folder: Path,
    *,
    workers: int,
    hours: float,
    gpus: int = 0,
    partition: str = "",
    cluster: Literal["slurm", "local"] = "slurm",
) -> list[str]:
    """Submits workers on a study that was begun, as one array of jobs.

    Args:
      folder: the study's, which all machines see.
      workers: how many, ≥ 1; each is a job of one node.
      hours: until a job is ended, above 0; what it was at is then taken up by another worker.
      gpus: of each.
      partition: of Slurm; "" is its default.
      cluster: local starts processes on this machine, to try it.
    Returns:
      The names of the jobs.
    Raises:
      UserError: if submitit is not installed, there is no such study, or Slurm refuses.
    """
    if workers < 1 or hours <= 0:
        raise UserError(f"workers must be at least 1 and hours above 0, got {workers} and {hours:g}")
    config_of(folder)
    try:
        import submitit
    except ImportError:
        raise UserError("jobs of Slurm need submitit: pip install 'jaxinterp[slurm]'") from None
    run = "from jaxinterp.cli.main import main; main()"
    words = [sys.executable, "-c", run, "study", "work", str(folder.resolve())]
    try:
        executor = submitit.AutoExecutor(folder=folder.resolve() / JOBS, cluster=cluster)
        executor.update_parameters(name="study", timeout_min=max(1, round(60 * hours)), gpus_per_node=gpus)
        if partition and cluster == "slurm":
            executor.update_parameters(slurm_partition=partition)
        with executor.batch():
            jobs = [executor.submit(submitit.helpers.CommandFunction(words)) for _ in range(workers)]
    except (RuntimeError, OSError) as error:  # of submitit, sbatch and the file system
        raise UserError(f"Slurm took no job: {str(error).strip().splitlines()[0][:150]}") from None
    return [job.job_id for job in jobs]
