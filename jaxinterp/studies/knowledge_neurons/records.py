"""What a study has done so far: a line a fact, so that an interrupted study goes on where it was."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json, writable_folder, write_json
from jaxinterp.base.provenance import provenance
from jaxinterp.facts.batches import QueryBatch, query_batch
from jaxinterp.facts.encoding import EncodedQueries

SHORTEST = 8  # tokens of a batch, at least


def claim(folder: Path, config: Mapping) -> Mapping:
    """Makes the folder this study's, or checks that it is. A study that has recorded nothing makes room for another.

    Returns:
      The provenance that was written when the study began.
    Raises:
      UserError: if the folder cannot be written, or holds a study of another config: with the first field that differs.
    """
    path = writable_folder(folder) / "config.json"
    mine = json.loads(json.dumps(config))
    if not path.exists():
        if any(folder.iterdir()):
            raise UserError(f"{folder} is not empty and holds no study that could be continued; choose another folder")
        write_json(path, {"config": mine, "provenance": provenance()})
    saved = read_json(path)
    if saved.keys() != {"config", "provenance"}:
        raise UserError(f"{path} is not that of a knowledge-neuron study; choose another folder")
    if saved["config"] != mine and not any(file.stat().st_size for file in folder.glob("*.jsonl")):
        saved = {"config": mine, "provenance": provenance()}
        write_json(path, saved)
    for name in sorted(mine.keys() | saved["config"].keys()):
        here, there = mine.get(name), saved["config"].get(name)
        if here != there:
            raise UserError(
                f"{folder} holds a study of another config: {name} is {there!r} there and {here!r} here; "
                "go on with the same config, or choose another folder"
            )
    return saved["provenance"]


class Record:
    """A file with a line of JSON for every fact that is done, by the fact's index."""

    def __init__(self, path: Path) -> None:
        """Reads what is there; a last line that was cut off is dropped.

        Raises:
          UserError: if a line before the last one is broken.
        """
        self.path = path
        self._lines: dict[int, dict] = {}
        text = path.read_bytes() if path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                value = json.loads(line)
                self._lines[value["fact"]] = value
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path}, line {number} is broken; delete it, and its fact is done again") from None
        if len(whole) < len(text):
            with path.open("rb+") as file:
                file.truncate(len(whole))

    def __contains__(self, fact: int) -> bool:
        return fact in self._lines

    def __getitem__(self, fact: int) -> dict:
        return self._lines[fact]

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, values: list[dict]) -> None:
        """Appends facts; what `[]` gives afterwards is what a later run will read."""
        lines = [json.dumps(value, ensure_ascii=False, allow_nan=False) for value in values]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        self._lines |= {value["fact"]: value for value in map(json.loads, lines)}


def short(value: float | np.floating) -> float:
    """The number with the nine digits that tell any two float32 apart, so that a line stays readable."""
    return float(f"{value:.9g}")


def planned(queries: EncodedQueries, n_rows: int) -> list[np.ndarray]:
    """The queries in order, cut into batches of at most `n_rows` rows; an answer is never cut.

    The plan depends on the queries alone, not on what is done already, so that a continued study computes the same
    batches, and the same numbers to the last bit.

    Raises:
      UserError: if an answer has more tokens than a batch has rows.
    """
    if (longest := int(queries.answer_length_N.max())) > n_rows:
        raise UserError(f"an answer has {longest} tokens, above the {n_rows} rows of a batch; raise rows")
    plan: list[list[int]] = [[]]
    used = 0
    for query, length in enumerate(queries.answer_length_N.tolist()):
        if used + length > n_rows:
            plan.append([])
            used = 0
        plan[-1].append(query)
        used += length
    return [np.array(taken) for taken in plan]


def batch_of(queries: EncodedQueries, taken: np.ndarray, n_rows: int) -> QueryBatch:
    """The batch of some queries. Its length is the next power of two, so that few shapes are compiled."""
    n_tokens = SHORTEST
    while n_tokens < queries.length_N[taken].max():
        n_tokens *= 2
    chosen = queries[taken]
    chosen = dataclasses.replace(chosen, tokens_NT=chosen.tokens_NT[:, :n_tokens])
    rng = np.random.default_rng(0)  # of controls, which this study draws itself
    batch, _ = query_batch(chosen, n_sequences=n_rows, n_rows=n_rows, answered=range(len(taken)), rng=rng, n_controls=0)
    return batch


def fill(
    record: Record,
    queries: EncodedQueries,
    n_rows: int,
    step: Callable[[QueryBatch, np.ndarray], list[dict]],
    describe: Callable[[int], Mapping],
    done: Callable[[int], None],
) -> None:
    """Computes every fact that the record lacks, and appends it when its last query is done.

    Args:
      record: of facts; a line is {"fact", what `describe` says, "queries": what `step` gave, in order}.
      queries: in the order of their facts.
      n_rows: rows of a batch.
      step: a batch and the queries in it -> a value for each.
      describe: a fact's index -> words for the reader of the file.
      done: told the number of facts in the record among those of `queries`.
    """
    n_left = dict(zip(*(values.tolist() for values in np.unique(queries.fact_N, return_counts=True)), strict=True))
    results: dict[int, list[dict]] = {fact: [] for fact in n_left}
    n_done = sum(fact in record for fact in n_left)
    for taken in planned(queries, n_rows):
        facts = queries.fact_N[taken].tolist()
        if all(fact in record for fact in facts):
            continue
        for fact, value in zip(facts, step(batch_of(queries, taken, n_rows), taken), strict=True):
            results[fact].append(value)
        complete = [fact for fact in dict.fromkeys(facts) if fact not in record and len(results[fact]) == n_left[fact]]
        record.add([{"fact": fact, **describe(fact), "queries": results[fact]} for fact in complete])
        n_done += len(complete)
        done(n_done)


@contextlib.contextmanager
def saying_how_to_go_on(folder: Path) -> Iterator[None]:
    """Turns Ctrl-C into one line that says how the study goes on."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"what is done is kept in {folder}; the same command goes on there") from None
