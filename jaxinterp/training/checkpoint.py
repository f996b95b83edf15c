"""Checkpoints of a run, by orbax.

Orbax restores damaged arrays, and arrays of another dtype, without a word; so each checkpoint carries the SHA-256,
shape and dtype of every array, and nothing that differs is restored.
"""

import contextlib
import logging
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import writable_folder
from jaxinterp.base.processes import gathered, is_first, several, together
from jaxinterp.training.array_digests import Damaged, digests_of, first_bad, named, opened, sealed

DAMAGED = "damaged-"  # before the step, in the name of a checkpoint that was put aside
DELETED = "deleted-"  # before the step, in the name of one that is being deleted: what is left of it is no damage
MOST = 120  # characters of another library's message
State = TypeVar("State")  # any pytree of arrays and keys
Kept = Callable[[Sequence[int]], set[int]]  # which of some steps stay
_MARKER = "_CHECKPOINT_METADATA"  # in every checkpoint; a folder without it was made by something else than orbax


class Checkpoints:
    """The checkpoints of one folder, a subfolder a step; each is written beside its place and moved there when done.

    They are written by a thread while the run goes on, from a copy on the host; the next one waits for it. With several
    processes all write their parts, and the run waits. A damaged or incomplete one is moved to `damaged-STEP`, a line
    says so, and the newest good one is taken.
    """

    def __init__(self, folder: Path, keep: int, every: int = 0, also: Kept = lambda _: set()) -> None:
        """Opens a folder, which is made if need be.

        Args:
          folder: of the checkpoints; with several processes all see it.
          keep: how many of the newest stay.
          every: those of multiples of so many steps stay as well; 0 is none.
          also: which of these steps stay for another reason, such as being the best.
        Raises:
          UserError: if the folder cannot be written.
        """
        self.folder = writable_folder(folder.resolve()) if is_first() else folder.resolve()
        self._keep, self._every, self._also = keep, every, also
        together("checkpoints")
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        for path in sorted(self.folder.iterdir()):
            if path.name.startswith(DELETED) and is_first():
                shutil.rmtree(path, ignore_errors=True)
            if _is_step(path) and not (path / _MARKER).exists():
                self._put_aside(int(path.name), "it is not complete")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._written: Future | None = None

    def steps(self) -> list[int]:
        """Saved steps, in order."""
        self.wait()
        return sorted(self._manager.all_steps())

    def damaged(self) -> bool:
        """Whether a checkpoint was put aside."""
        return any(path.name.startswith(DAMAGED) for path in self.folder.iterdir())

    def describe(self) -> str:
        """Where the newest is, in words."""
        steps = self.steps()
        return f"the last good checkpoint is {self.folder / str(steps[-1])}" if steps else "there is no checkpoint"

    def save(self, step: int, state: Any) -> None:
        """Saves the state after so many steps; a step that is there already is left alone. It is whole after `wait`.

        Raises:
          UserError: if the one before it could not be written, as on a full disk; those before that stay whole.
        """
        if step in self.steps():
            return
        tree = _as_arrays(state)
        if several():
            # Its parts are on many hosts, and orbax's processes wait for one another as operations on devices.
            self._write(step, tree, gathered(tree))
            return
        # A copy, for the next step overwrites the state.
        host = jax.tree.map(lambda leaf: np.array(leaf), tree)
        self._written = self._writer.submit(self._write, step, host, host)

    def wait(self) -> None:
        """Waits until what was saved is on the disk.

        Raises:
          UserError: if it cannot be written.
        """
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def _write(self, step: int, tree: Any, host: Any) -> None:
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(tree), digests=ocp.args.JsonSave(sealed(digests_of(host)))
        )
        try:
            self._manager.save(step, args=items, force=True)
            self._manager.wait_until_finished()
            self._prune()
        except (OSError, ValueError) as error:  # tensorstore's are ValueErrors
            there = sorted(self._manager.all_steps())
            last = f"the last good checkpoint is {self.folder / str(there[-1])}" if there else "there is none before it"
            raise UserError(
                f"the checkpoint of step {step} cannot be written to {self.folder}: {_in_short(error)}; "
                f"{last}; free space, and continue the run"
            ) from None

    def _prune(self) -> None:
        """Deletes those that no policy keeps; one that is deleted in part would be taken for damaged."""
        steps = sorted(self._manager.all_steps())
        kept = {*steps[-self._keep :], *self._also(steps)}
        old = [step for step in steps if step not in kept and not (self._every and step % self._every == 0)]
        for step in old if is_first() else ():
            (self.folder / str(step)).rename(self.folder / f"{DELETED}{step}")
            shutil.rmtree(self.folder / f"{DELETED}{step}")
        if old:
            together("pruned")
            self._manager.reload()  # it forgets them

    def restore(self, like: State, last: int | None = None) -> tuple[int, State]:
        """The newest good state, and the steps done.

        Args:
          like: a state of the same structure, whose values are not used.
          last: the last step that is looked at; None is any.
        Raises:
          UserError: if there is none, or the newest one is of another structure, which is no damage.
        """
        if not self.steps() and not self.damaged():
            raise UserError(f"no checkpoint in {self.folder} to resume from; start the run without --resume")
        template = _as_arrays(like)
        for step in reversed([step for step in self.steps() if last is None or step <= last]):
            try:
                return step, self._restored(step, like, template)
            except Damaged as damage:
                self._put_aside(step, str(damage))
                self._manager.reload()  # it has forgotten the step, so that it can be saved again
        raise UserError(
            f"no checkpoint in {self.folder} is whole; the damaged ones are kept there; start in another folder"
        )

    def _restored(self, step: int, like: State, template: Any) -> State:
        try:
            items = ocp.args.Composite(digests=ocp.args.JsonRestore())
            kept = dict(self._manager.restore(step, args=items).digests)
        except Exception as error:  # orbax and tensorstore raise many kinds
            raise Damaged(f"its digests cannot be read ({_in_short(error)})") from None
        kept = opened(kept)
        kinds = {name: digest.rpartition(" ")[0] for name, digest in kept.items()}
        expected = {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in named(template).items()}
        try:
            # Where this process puts its own states, wherever the checkpoint was written.
            abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_place(x)), template)
            args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
            found = self._manager.restore(step, args=args).state
        except Exception as error:
            # Tensorstore's other reads of the same files fail as well, and asyncio would tell each.
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
            if kinds != expected:
                raise UserError(self._another(step, kinds, expected)) from None
            raise Damaged(f"it cannot be read ({_in_short(error)})") from None
        digests = digests_of(gathered(found) if several() else found)
        if not (bad := first_bad(kept, digests)):
            wrapped = type(like)(**found) if hasattr(like, "_asdict") else found
            return jax.tree.map(lambda leaf, x: jax.random.wrap_key_data(x) if _is_key(leaf) else x, like, wrapped)
        if kinds != expected:
            raise UserError(self._another(step, kinds, expected))
        raise Damaged(f"array {bad} is not what was saved")

    def _another(self, step: int, there: dict[str, str], here: dict[str, str]) -> str:
        name = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))[0]
        return (
            f"the checkpoint of step {step} is of another run, and not damaged: array {name} is "
            f"{there.get(name, 'not there')} in it, and {here.get(name, 'not there')} here, as another vocabulary, "
            "model or version has it; continue it with what it began with, or start in another folder"
        )

    def _put_aside(self, step: int, why: str) -> None:
        """Moves a damaged checkpoint out of the way and says so."""
        together("damaged")  # all have read it
        target = self.folder / f"{DAMAGED}{step}"
        if not is_first():
            together("aside")
            return
        try:
            shutil.rmtree(target, ignore_errors=True)
            (self.folder / str(step)).rename(target)
        except OSError as error:
            raise UserError(f"cannot move {self.folder / str(step)}: {error.strerror or error}") from None
        print(f"the checkpoint of step {step} is damaged: {why}; it is kept in {target}", file=sys.stderr, flush=True)
        together("aside")

    def close(self) -> None:
        """Waits for what is being written, and releases the threads.

        Raises:
          UserError: if it cannot be written.
        """
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            self._manager.close()


def damage_of(folder: Path, step: int) -> str:
    """What is wrong with a checkpoint of any structure, whose arrays are read; "" if it is whole. Nothing is moved."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    path = folder.resolve() / str(step)
    if not (path / _MARKER).exists():
        return "it is not complete"
    with contextlib.closing(ocp.CheckpointManager(folder.resolve(), item_names=("state", "digests"))) as manager:
        try:
            # Onto one device of this process, wherever the checkpoint was written.
            here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            kinds = manager.item_metadata(step)["state"]
            abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), kinds)
            args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), digests=ocp.args.JsonRestore())
            found = manager.restore(step, args=args)
            kept = opened(dict(found.digests))
        except Damaged as damage:
            return str(damage)
        except Exception as error:  # orbax and tensorstore raise many kinds
            return f"it cannot be read ({_in_short(error)})"
    # Without a state to restore into, orbax gives dictionaries for named tuples: names are compared by their words.
    kept, digests = (
        {".".join(re.findall(r"\w+", name)): digest for name, digest in of.items()}
        for of in (kept, digests_of(found.state))
    )
    bad = first_bad(kept, digests)
    return f"array {bad} is not what was saved" if bad else ""


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_arrays(state: Any) -> Any:
    """Keys as their data; a named tuple as a dictionary, whose names files and messages then have."""
    arrays = jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, state)
    return arrays._asdict() if hasattr(arrays, "_asdict") else arrays


def _place(leaf: Any) -> jax.sharding.Sharding:
    return getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])


def _is_step(path: Path) -> bool:
    return path.is_dir() and path.name.isascii() and path.name.isdigit()


def _in_short(error: Exception) -> str:
    """The first line of an error, without what follows for developers."""
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return line if len(line) <= MOST else f"{line[:MOST]}…"
