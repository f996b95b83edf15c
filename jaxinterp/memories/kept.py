"""A scan for triggers that goes on where it was interrupted, and is not done twice."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxinterp.base.digests import arrays_digest
from jaxinterp.base.errors import UserError
from jaxinterp.editing.files import load_arrays, save_arrays
from jaxinterp.memories.corpus import Corpus
from jaxinterp.models.language_model import LanguageModel

if TYPE_CHECKING:
    from jaxinterp.memories.best import Best

SECONDS = 60.0  # between two writes
KIND = "scan for triggers in rows"


class Kept:
    """The file of a scan: the best so far, and how many batches were read for it."""

    def __init__(
        self, path: Path, model: LanguageModel, corpus: Corpus, looked_at_NT: np.ndarray, k: int, tokens: int
    ) -> None:
        read = arrays_digest([*zip(corpus._fields, map(np.asarray, corpus), strict=True), ("looked_at", looked_at_NT)])
        self._path, self._last = path, time.monotonic()
        self._of = {"model": model.digest(), "corpus": read, "k": k, "tokens": tokens}

    def read(self, best: "Best") -> int:
        """Fills in what is in the file; the number of batches that were read, 0 if there is no file.

        Raises:
          UserError: if the file is damaged, or of another scan.
        """
        if not self._path.exists():
            return 0
        arrays, said = load_arrays(self._path, KIND)
        for name, value in self._of.items():
            if said[name] != value:
                raise UserError(f"{self._path} is of a scan with another {name}; delete it, or choose another file")
        best.value_LFK, best.token_LFK = arrays["value"].copy(), arrays["token"].copy()
        return said["batches"]

    def write(self, best: "Best", n_batches: int, *, done: bool = False) -> None:
        """Writes the best of the first batches, if the last time is `SECONDS` ago or the scan is done.

        Raises:
          UserError: if it cannot be written.
        """
        if time.monotonic() - self._last < SECONDS and not done:
            return
        arrays = {"value": best.value_LFK, "token": best.token_LFK}
        save_arrays(self._path, KIND, arrays, {**self._of, "batches": n_batches})
        self._last = time.monotonic()
