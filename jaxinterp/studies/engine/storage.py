"""Where a study's trials are kept: Optuna's storage, its mistakes in one line, and how a study is begun and opened.

A trial of a design is one point with one seed; a trial of a search, or of seeds that are trained together, is one point
with all seeds. All trials there can be are entered when the study begins, so that however many workers take them none
is made twice.
"""

import contextlib
import dataclasses
import itertools
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jaxinterp.base.configs import from_json
from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json, writable_folder
from jaxinterp.base.lines import CHECK, is_as_written
from jaxinterp.base.owner import is_owned, owned
from jaxinterp.base.run_folder import claim
from jaxinterp.studies.engine.config import StudyConfig
from jaxinterp.studies.engine.points import points_of
from jaxinterp.studies.engine.version import code_version, digest_of

if TYPE_CHECKING:
    import optuna

JOURNAL, CONFIG = "journal.log", "config.json"  # files in the study's folder
POINT, SEED, ALIVE = "point", "seed", "alive"  # attributes of a trial
READY, VERSION, OWN = "ready", "code", "config"  # attributes of a study
BEGINNING = 60  # seconds that workers wait for one that begins the study
WAIT = 10  # seconds until a database that does not answer is down


@dataclasses.dataclass(frozen=True)
class Attached:
    """A study that this process has opened."""

    config: StudyConfig
    folder: Path
    study: "optuna.study.Study"
    storage: "optuna.storages.BaseStorage"

    def trials(self) -> list["optuna.trial.FrozenTrial"]:
        """All trials as they are now, in their order; they are not to be changed."""
        with telling(self.config):
            study = self.storage.get_study_id_from_name(self.config.name)
            return self.storage.get_all_trials(study, deepcopy=False)


def begin(config: StudyConfig, folder: Path) -> None:
    """Begins a study in a folder, with all of its trials; one that is there already is left as it is.

    Raises:
      UserError: if the folder holds something else, or the storage a study of this name with another config.
    """
    until = time.monotonic() + BEGINNING
    writable_folder(folder)
    while is_owned(folder) and time.monotonic() < until:
        time.sleep(0.1)
    with owned(folder):
        claim(dataclasses.asdict(config), folder, resume=(folder / CONFIG).exists())
        with telling(config):
            _enter(config, folder)


def _enter(config: StudyConfig, folder: Path) -> None:
    import optuna

    storage = _opened(config, folder)
    optimised = config.optimise or config.front or {config.metrics[0]: "maximize"}
    study = optuna.create_study(
        storage=storage, study_name=config.name, directions=list(optimised.values()), load_if_exists=True
    )
    digest = digest_of(dataclasses.asdict(config))
    if study.user_attrs.get(OWN, digest) != digest:
        raise UserError(f"the storage holds a study {config.name!r} of another config; give this one another name")
    if study.user_attrs.get(READY):
        return
    study.set_user_attr(OWN, digest)
    study.set_user_attr(VERSION, code_version())
    waiting = optuna.trial.TrialState.WAITING
    if config.searches:
        trials = [optuna.trial.create_trial(state=waiting) for _ in range(config.budget.trials)]
    else:
        levels = {f.name: optuna.distributions.CategoricalDistribution(f.values) for f in config.factors}
        # All points before the next seed.
        seeds = [{}] if config.vmapped else [{SEED: seed} for seed in config.seeds]
        if not config.vmapped:
            levels[SEED] = optuna.distributions.CategoricalDistribution(config.seeds)
        trials = [
            optuna.trial.create_trial(
                state=waiting,
                params={**point, **seed},
                distributions=levels,
                user_attrs={POINT: dict(point), **seed},
            )
            for seed, point in itertools.product(seeds, points_of(config))
        ]
    there = len(study.get_trials(deepcopy=False))  # of a beginning that was interrupted
    study.add_trials(trials[there:])
    study.set_user_attr(READY, True)


def attach(folder: Path, *, same_code: bool = False) -> Attached:
    """Opens the study of a folder.

    Args:
      folder: where it was begun.
      same_code: whether this process computes runs, for which it must have the study's own version of the code.
    Raises:
      UserError: if there is none, it is damaged, its storage is down, or the code is another one.
    """
    kept = _kept_config(folder)
    config = from_json(StudyConfig, kept, str(folder / CONFIG))
    with telling(config):
        import optuna

        storage = _opened(config, folder)
        try:
            study = optuna.load_study(study_name=config.name, storage=storage)
        except KeyError:
            raise UserError(f"the storage has no study {config.name!r}; begin it with `jaxinterp study run`") from None
        attributes = study.user_attrs
    # As it was written: this version may have fields more than the one that began the study.
    if attributes.get(OWN) != digest_of(kept):
        raise UserError(
            f"the storage holds a study {config.name!r} of another config than {folder}; give it another name"
        )
    if not attributes.get(READY):
        raise UserError(f"the study in {folder} was not begun to the end; go on with `jaxinterp study run`")
    if same_code and attributes[VERSION] != code_version():
        raise UserError(
            f"{folder} was begun with code {attributes[VERSION]}, and this is {code_version()}: results of the two "
            "would be mixed; use the code it was begun with, or begin a study in another folder"
        )
    return Attached(config, folder, study, storage)


def config_of(folder: Path) -> StudyConfig:
    """The config of the study that a folder holds; UserError if it holds none."""
    return from_json(StudyConfig, _kept_config(folder), str(folder / CONFIG))


def _kept_config(folder: Path) -> Mapping:
    path = folder / CONFIG
    if not path.exists():
        raise UserError(f"{folder} holds no study; begin one with `jaxinterp study run CONFIG --out {folder}`")
    kept = read_json(path)
    if CHECK in kept and not is_as_written(kept):
        raise UserError(f"{path} is damaged: it is not what was written; bring it back")
    return kept.get("config", {})


def _opened(config: StudyConfig, folder: Path) -> "optuna.storages.BaseStorage":
    import optuna
    from optuna.storages import journal

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if config.storage:
        postgresql = config.storage.startswith("postgresql")
        engine = {"connect_args": {"connect_timeout": WAIT}} if postgresql else {}
        return optuna.storages.RDBStorage(config.storage, engine_kwargs=engine)
    path = str(folder / JOURNAL)
    lock = journal.JournalFileOpenLock(path) if os.name == "nt" else None
    return optuna.storages.JournalStorage(journal.JournalFileBackend(path, lock))


@contextlib.contextmanager
def telling(config: StudyConfig) -> Iterator[None]:
    """Turns what a storage raises into one line that says which storage it was."""
    name = re.sub(r"//[^@/]*@", "//", config.storage) or f"the study's {JOURNAL}"
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        if error.name == "optuna":
            raise UserError("studies need Optuna: pip install 'jaxinterp[studies]'") from None
        raise UserError(
            f"the storage {name} needs a driver: {_in_short(error)}; as pip install 'psycopg[binary]'"
        ) from None
    except KeyError:
        raise
    except Exception as error:  # of Optuna, SQLAlchemy, the driver, and the file system
        if not _is_of_storage(error):
            raise
        raise UserError(
            f"the storage {name} is down, locked or damaged: {_in_short(error)}; what is done is kept: "
            "start again when it is back"
        ) from None


def _is_of_storage(error: Exception) -> bool:
    module = type(error).__module__.partition(".")[0]
    is_internal = type(error).__name__ == "StorageInternalError"
    return (
        is_internal or module in ("sqlalchemy", "psycopg", "psycopg2", "sqlite3", "json") or isinstance(error, OSError)
    )


def _in_short(error: BaseException) -> str:
    """The first line of the first cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0][:100] if lines else type(error).__name__
