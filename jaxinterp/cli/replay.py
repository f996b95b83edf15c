"""The command `jaxinterp replay`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro


@dataclasses.dataclass(frozen=True)
class Replay:
    """Compute a step again whose loss or gradient was not finite, and name the first operation that went wrong."""

    folder: Annotated[Path, tyro.conf.Positional]  # of a run of `jaxinterp train`
    step: int | None = None  # which; the first one by default

    def __call__(self) -> None:
        """Runs the command."""
        from jaxinterp.training.replay import replay

        found = replay(self.folder, self.step)
        name, size = found.largest
        print(f"step {found.step}: the first bad array is {found.array}")
        print(f"first bad operation: {found.operation.describe() if found.operation else 'none'}")
        print(f"largest parameter before the step: {name}, {size:.3g}")
        print(f"what to change: {found.remedy}")
