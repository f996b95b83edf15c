"""Runs in folders: what there is, whether it is whole, and what of it can go."""

import contextlib
import dataclasses
import datetime
import shutil
from collections.abc import Iterator
from pathlib import Path

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json
from jaxinterp.base.lines import CHECK, is_as_written, whole_lines
from jaxinterp.base.owner import is_owned, owned
from jaxinterp.models.loading.pinned import verify
from jaxinterp.training.checkpoint import DAMAGED, damage_of
from jaxinterp.training.driver import EVALUATIONS, METRICS

CONFIG, CHECKPOINTS, MODEL = "config.json", "checkpoints", "model"


@dataclasses.dataclass(frozen=True)
class Run:
    """A folder that holds a run."""

    folder: Path

    @property
    def config(self) -> dict:
        """What decides the run; empty if it cannot be read."""
        try:
            found = read_json(self.folder / CONFIG).get("config", {})
        except UserError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def steps(self) -> list[int]:
        """Of the checkpoints, in order."""
        return sorted(int(path.name) for path in self._checkpoints() if path.name.isascii() and path.name.isdigit())

    @property
    def damaged(self) -> list[Path]:
        """Checkpoints that were put aside."""
        return sorted(path for path in self._checkpoints() if path.name.startswith(DAMAGED))

    @property
    def done(self) -> int:
        """The last step in the log; 0 if there is none."""
        steps = [value.get("step") for _, _, value in whole_lines(self.folder / METRICS)[0]]
        return max((step for step in steps if isinstance(step, int)), default=0)

    @property
    def last(self) -> int | None:
        """How many steps its config asks for; None if that is not said."""
        found = self.config.get("steps", (self.config.get("run") or {}).get("steps"))
        return found if isinstance(found, int) else None

    @property
    def models(self) -> list[Path]:
        """Folders of the models that it has left: one, or one for each member of an ensemble."""
        folder = self.folder / "models"
        places = [self.folder / MODEL, *(sorted(folder.iterdir()) if folder.is_dir() else [])]
        return [place for place in places if (place / CONFIG).is_file()]

    @property
    def state(self) -> str:
        """ "running" (a process holds it), "done" (its models are there) or "to be continued"."""
        if is_owned(self.folder):
            return "running"
        return "done" if self.models and self.done >= (self.last or 0) else "to be continued"

    @property
    def begun(self) -> str:
        """When, to the minute; "" if it is not known."""
        try:
            date = str(read_json(self.folder / CONFIG).get("date", ""))
            return datetime.datetime.fromisoformat(date).strftime("%Y-%m-%d %H:%M")
        except (UserError, ValueError):
            return ""

    def size(self) -> int:
        """Bytes of all its files."""
        total = 0
        for path in self.folder.rglob("*"):
            with contextlib.suppress(OSError):  # one that was deleted meanwhile
                total += path.lstat().st_size if path.is_file() else 0
        return total

    def faults(self) -> list[str]:
        """What is not whole, a sentence each: config, logs, checkpoints, model. Checkpoints' arrays are read."""
        found = []
        try:
            kept = read_json(self.folder / CONFIG)
            if CHECK in kept and not is_as_written(kept):
                found.append(f"{CONFIG} is not what was written")
        except UserError as error:
            found.append(str(error))
        for name in (METRICS, EVALUATIONS):
            if broken := whole_lines(self.folder / name)[1]:
                found.append(f"{name}: {len(broken)} lines are not what was written")
        found += [f"{path.name} was damaged, and put aside" for path in self.damaged]
        found += [f"the checkpoint of step {step}: {why}" for step, why in self._damage().items()]
        for place in self.models:
            try:
                verify(place)
            except UserError as error:
                found.append(str(error))
        return found

    def prune(self, keep: int) -> int:
        """Deletes checkpoints that were put aside, and those that are older than the newest `keep` whole ones.

        Returns:
          The bytes that are free now.
        Raises:
          UserError: if the run is running, or a checkpoint cannot be deleted.
        """
        with owned(self.folder):
            before, whole, gone = self.size(), 0, list(self.damaged)
            for step in reversed(self.steps):
                if whole == keep:
                    gone.append(self.folder / CHECKPOINTS / str(step))
                elif not damage_of(self.folder / CHECKPOINTS, step):
                    whole += 1
            for path in gone:
                try:
                    shutil.rmtree(path)
                except OSError as error:
                    raise UserError(f"cannot delete {path}: {error.strerror or error}") from None
            return before - self.size()

    def _checkpoints(self) -> list[Path]:
        folder = self.folder / CHECKPOINTS
        return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []

    def _damage(self) -> dict[int, str]:
        if self.state == "running":  # which rotates them
            return {}
        return {step: why for step in self.steps if (why := damage_of(self.folder / CHECKPOINTS, step))}


def runs_in(folder: Path) -> list[Run]:
    """All runs in a folder and below it, by their paths.

    Raises:
      UserError: if there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder")
    return sorted(_found(folder), key=lambda run: run.folder)


def _found(folder: Path) -> Iterator[Run]:
    if (folder / CONFIG).is_file() and ((folder / METRICS).is_file() or (folder / CHECKPOINTS).is_dir()):
        yield Run(folder)
    try:
        inside = sorted(folder.iterdir())
    except OSError:  # not this user's
        return
    for path in inside:
        if path.is_dir() and not path.is_symlink() and path.name not in (CHECKPOINTS, MODEL) and path.name[0] != ".":
            yield from _found(path)
