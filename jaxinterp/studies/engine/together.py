"""All seeds of a point in one program: trained by `vmap`, measured one by one, each kept as a run of its own.

Their results have keys of their own: the seeds share the order of the data, and sums are taken in another order, so
that they are not those of runs that are trained alone.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from jaxinterp.base.owner import owned
from jaxinterp.studies.engine.config import Point, StudyConfig, training_of
from jaxinterp.studies.engine.run import (
    RESULT,
    CannotBe,
    Outcome,
    Result,
    folder_of,
    keep,
    key_of,
    of_its_levels,
    read_result,
)
from jaxinterp.studies.engine.trained import data_of, outcome_of
from jaxinterp.studies.engine.version import code_version
from jaxinterp.training.config import TrainConfig

GROUPS = "groups"  # folder in the study's, of what is trained together; named after the run of the first seed

# (the training of the first seed, the study, the group's folder) -> what each seed gives, or why it failed; goes on
# where the folder's checkpoint is. Raises as a `Runner`, of all seeds
GroupRunner = Callable[[TrainConfig, StudyConfig, Path], Mapping[int, Outcome | str]]


def group_of(config: StudyConfig, folder: Path, point: Point) -> Path:
    """The folder of what is trained together, whose lock its worker holds."""
    return folder / GROUPS / key_of(config, point, config.seeds[0], code_version())


def done_together(config: StudyConfig, folder: Path, point: Point, runner: GroupRunner) -> dict[int, Result]:
    """The result of every seed of a point; if one is not there, all are computed, and those that are there stay.

    Raises:
      UserError: as `jaxinterp.studies.engine.run.done`.
    """
    outs = {seed: folder_of(folder, key_of(config, point, seed, code_version())) for seed in config.seeds}
    group = group_of(config, folder, point)
    with owned(group):
        missing = {seed: out for seed, out in outs.items() if not (out / RESULT).exists()}
        if missing:
            start = time.monotonic()
            outcomes = _computed(config, point, group, runner)
            seconds = (time.monotonic() - start) / len(outs)
            for seed, out in missing.items():
                keep(config, out, point, seed, outcomes[seed], seconds)
    return {seed: read_result(out) for seed, out in outs.items()}


def _computed(config: StudyConfig, point: Point, group: Path, runner: GroupRunner) -> Mapping[int, Outcome | str]:
    from jaxinterp.training.driver import NotFinite

    try:
        with of_its_levels():
            training = training_of(config, point, config.seeds[0])
        return runner(training, config, group)
    except (NotFinite, CannotBe) as error:
        return dict.fromkeys(config.seeds, str(error))


def trained_together(run: TrainConfig, config: StudyConfig, out: Path) -> dict[int, Outcome | str]:
    """Trains a model for each of the study's seeds in one program, and measures them; the runner of every such study
    but those of tests.
    """
    from jaxinterp.training.ensemble import train_ensemble
    from jaxinterp.training.ensemble_config import EnsembleConfig
    from jaxinterp.training.runs import Run

    data = data_of(run, config)
    with of_its_levels():
        ensemble = EnsembleConfig(run, seeds=len(config.seeds), weights=())
    begun = (out / "config.json").exists()
    steps = Run(out).steps if begun else []
    trained = train_ensemble(ensemble, data.training, out, resume=begun, title=out.name)
    found: dict[int, Outcome | str] = {member.seed: reason for member, reason in trained.failed.items()}
    for member, model in trained.models.items():
        found[member.seed] = outcome_of(model, data, config, steps[-1] if steps else 0)
    return found
