"""What a run has done so far, by fact: a line of JSON for each, so that an interrupted run goes on where it was."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json, write_bytes
from jaxinterp.base.lines import CHECK, opened, put_aside, sealed, whole_lines
from jaxinterp.base.owner import FILES
from jaxinterp.base.run_folder import claim, difference


def claim_recorded(config: Mapping, out: Path) -> dict:
    """`claim` for a run whose results are records: what is there goes on, and a run that has none yet makes room.

    Returns:
      The provenance that was written when the run began.
    Raises:
      UserError: if the folder cannot be written, or holds something else.
    """
    path = out / "config.json"
    if path.exists():
        saved = read_json(path).get("config", {})
        another = saved.keys() == config.keys() and difference(config, saved) is not None
        if another and not any(file.stat().st_size for file in out.glob("*.jsonl")):
            path.unlink()
    elif out.exists() and any(path.name not in FILES for path in out.iterdir()):
        raise UserError(f"{out} is not empty and holds no run that could be continued; choose another folder")
    claim(config, out, resume=path.exists())
    return {name: value for name, value in read_json(path).items() if name not in ("config", "data", CHECK)}


class Record:
    """A file with a line of JSON for every fact that is done, by the fact's index."""

    def __init__(self, path: Path) -> None:
        """Reads what is there; a last line that was cut off is dropped. Broken lines are put aside, and told: their
        facts are done again.

        Raises:
          UserError: if the file cannot be written.
        """
        self.path = path
        good, broken = whole_lines(path)
        named = [(number, line, value) for number, line, value in good if isinstance(value.get("fact"), int)]
        broken += [(number, line) for number, line, value in good if not isinstance(value.get("fact"), int)]
        self._lines: dict[int, dict] = {value["fact"]: value for _, _, value in named}
        if path.exists():
            put_aside(path, sorted(broken))
            write_bytes(path, b"".join(line + b"\n" for _, line, _ in named))

    def __contains__(self, fact: int) -> bool:
        return fact in self._lines

    def __getitem__(self, fact: int) -> dict:
        return self._lines[fact]

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, values: Sequence[Mapping]) -> None:
        """Appends facts; what `[]` gives afterwards is what a later run will read.

        Raises:
          UserError: if they cannot be written; those before stay.
        """
        lines = [sealed(value) for value in values]
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror or error}; what is there stays, the same command goes on"
            ) from None
        self._lines |= {value["fact"]: value for value in (opened(line.encode()) for line in lines)}

    def fill(
        self,
        parts: Iterable[Sequence[int]],
        lines: Callable[[Sequence[int]], Iterable[Mapping]],
        done: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Computes what is missing, part by part, and appends each part when it is done.

        A part that lacks a fact is computed whole. As the parts do not depend on what is done already, a continued run
        computes the same numbers to the last bit.

        Args:
          parts: facts that are computed together.
          lines: a part -> the line of each of its facts.
          done: told the number of facts that are there, part by part.
        """
        n_done = 0
        for part in parts:
            if any(fact not in self for fact in part):
                self.add([line for line in lines(part) if line["fact"] not in self])
            n_done += len(part)
            done(n_done)


@contextlib.contextmanager
def saying_how_to_go_on(folder: Path) -> Iterator[None]:
    """Turns Ctrl-C into one line that says how the run goes on."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"what is done is kept in {folder}; the same command goes on there") from None
