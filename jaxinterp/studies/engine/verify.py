"""Whether a study's results are what was computed: every record by its digests, and one run computed once more."""

import random
import shutil
from pathlib import Path

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.studies.engine.results import results_of
from jaxinterp.studies.engine.run import KEPT, Result, Runner, done, folder_of
from jaxinterp.studies.engine.storage import attach
from jaxinterp.studies.engine.together import GroupRunner, done_together, trained_together
from jaxinterp.studies.engine.trained import trained

AGAIN = "verify"  # folder in the study's, of the run that is computed once more; it goes when the two are equal


def verify_study(
    folder: Path, run: str = "", runner: Runner = trained, together: GroupRunner = trained_together
) -> Result:
    """Checks every result of a study, and computes one run once more, whose numbers must be the same to the last bit.

    Args:
      folder: of the study.
      run: key of the run; "" draws one of those that did not fail.
      runner, together: as of `run_study`; of seeds that were trained together all are trained once more.
    Returns:
      The run's result.
    Raises:
      UserError: naming a result that was tampered with, or what of the run is another value now; or saying that the
        run was computed on another kind of device, whose numbers say nothing of it.
    """
    attached = attach(folder, same_code=True)
    results = {of.record["key"]: of for of in results_of(attached)}
    able = [key for key, of in results.items() if not of.failed]
    if not able:
        raise UserError(f"no trial of the study in {folder} is done; there is nothing to verify")
    if run and run not in results:
        raise unknown("run", run, results)
    kept = results[run or random.choice(able)]
    again = folder / AGAIN
    shutil.rmtree(again, ignore_errors=True)

    config = attached.config
    if config.vmapped:
        new = done_together(config, again, kept.point, together)[kept.seed]
    else:
        new = done(config, again, kept.point, kept.seed, runner)
    device, here = kept.record["device"], new.record["device"]
    if device and here and here != device:
        shutil.rmtree(again)
        raise UserError(
            f"all results are as they were written; run {kept.record['key']} cannot be computed again here: it is of "
            f"{device}, and this is {here}, whose last digits differ; verify on the same kind of device"
        )
    for name in KEPT:
        if new.record[name] != kept.record[name]:
            raise UserError(
                f"run {kept.record['key']} is not reproduced: its {name} differ from those of "
                f"{folder_of(folder, kept.record['key'])}; both are kept, the new one in {again}"
            )
    shutil.rmtree(again)
    return kept
