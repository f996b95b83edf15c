"""Checkpoints of a run: the only place that knows orbax.

Orbax restores damaged arrays, and arrays of another dtype, without a word; so each checkpoint carries the SHA-256,
shape and dtype of every array, and nothing that differs is restored.
"""

import logging
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxinterp.base.digests import array_digest
from jaxinterp.base.errors import UserError
from jaxinterp.base.files import writable_folder

State = TypeVar("State")  # any pytree of arrays and keys
_MARKER = "_CHECKPOINT_METADATA"  # in every checkpoint; a folder without it was made by something else than orbax


class Checkpoints:
    """The checkpoints of one folder, a subfolder a step; each is written beside its place and moved there when done."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = writable_folder(folder.resolve())
        logging.getLogger("absl").setLevel(logging.ERROR)
        steps = sorted((path for path in self.folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
        if steps and not (steps[-1] / _MARKER).exists():
            raise UserError(f"the checkpoint {steps[-1]} is not complete; remove that folder and resume again")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def steps(self) -> list[int]:
        """Saved steps, in order."""
        return sorted(self._manager.all_steps())

    def describe(self) -> str:
        """Where the newest is, in words."""
        steps = self.steps()
        return f"the last good checkpoint is {self.folder / str(steps[-1])}" if steps else "there is no checkpoint"

    def save(self, step: int, state: Any) -> None:
        """Saves the state after so many steps; a step that is there already is left alone."""
        if step in self._manager.all_steps():
            return
        tree = _as_arrays(state)
        items = ocp.args.Composite(state=ocp.args.StandardSave(tree), digests=ocp.args.JsonSave(_digests(tree)))
        self._manager.save(step, args=items, force=True)
        self._manager.wait_until_finished()

    def restore(self, like: State) -> tuple[int, State]:
        """The newest state, and the steps done.

        Args:
          like: a state of the same structure, whose values are not used.
        Raises:
          UserError: if there is none, or an array is damaged, or is not what `like` says.
        """
        steps = self.steps()
        if not steps:
            raise UserError(f"no checkpoint in {self.folder} to resume from; start the run without --resume")
        step = steps[-1]
        earlier = f"remove {self.folder / str(step)} to resume from " + (
            f"step {steps[-2]}" if steps[1:] else "the start"
        )
        template = _as_arrays(like)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), template)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), digests=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=items)
        except Exception as error:  # orbax and tensorstore raise many kinds for a damaged or foreign checkpoint
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"the checkpoint of step {step} cannot be read ({line}); {earlier}") from None
        expected, found = _digests(restored.state), restored.digests
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise UserError(f"array {name} of the checkpoint of step {step} is damaged; {earlier}")
        found = type(like)(**restored.state) if hasattr(like, "_asdict") else restored.state
        wrapped = jax.tree.map(lambda leaf, x: jax.random.wrap_key_data(x) if _is_key(leaf) else x, like, found)
        return step, wrapped

    def close(self) -> None:
        """Releases orbax's threads."""
        self._manager.close()


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_arrays(state: Any) -> Any:
    """Keys as their data; a named tuple as a dictionary, whose names files and messages then have."""
    arrays = jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, state)
    return arrays._asdict() if hasattr(arrays, "_asdict") else arrays


def _digests(tree: dict) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): array_digest(np.asarray(leaf)) for path, leaf in leaves}
