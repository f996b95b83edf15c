"""Facts of one's own: a table with a prompt in each row, as CSV or as JSONL."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxinterp.base.errors import UserError
from jaxinterp.facts.checks import checked
from jaxinterp.facts.facts import ANSWER, SUBJECT, Fact, FactSet, Relation
from jaxinterp.facts.readers.lines import json_lines, name_field, read_text, template, text_field

COLUMNS = ("relation", "subject", "answer", "prompt")


def read_table(path: Path) -> FactSet:
    """The facts of a table with the columns `COLUMNS`, in any order.

    A prompt is a template with {subject} once and {answer} once or, if the answer follows at the end, not at all. Every
    prompt of a relation applies to all of its facts, so that a fact has several prompts when it, or any other fact of
    its relation, stands in several rows. A row that says nothing new is counted as "duplicate", one whose cells are all
    empty, as spreadsheets leave them, as "row of empty cells".

    Args:
      path: a ".csv" file with a header (quoted as in RFC 4180), or a ".jsonl" file with an object a line; capitals are
        as good.
    Raises:
      UserError: if the file's ending is another one, or a line is broken (with the line): a missing or unknown column,
        a cell too few or too many, a relation without a name, or a prompt without its subject.
    """
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path} is no table of facts; accepted: {', '.join(readers)}")
    prompts: dict[str, dict[str, None]] = {}
    rows: Counter[tuple[Fact, str]] = Counter()
    n_empty = 0
    for place, row in readers[path.suffix.lower()](path):
        relation = name_field(row, "relation", place)
        subject, answer, prompt = (text_field(row, name, place) for name in COLUMNS[1:])
        if not (relation or subject.strip() or answer.strip() or prompt.strip()):
            n_empty += 1
            continue
        if not relation:
            raise UserError(f"{place}: the relation is empty; give it a name")
        template(prompt, place, subject=SUBJECT, answer=ANSWER if ANSWER in prompt else None)
        prompts.setdefault(relation, {})[prompt] = None
        rows[Fact(relation, subject, answer), prompt] += 1
    if not rows:
        raise UserError(f"{path} has a header but no facts; add a row for each fact and prompt")
    relations = [Relation(name, tuple(own), domain=path.stem, source=path.name) for name, own in prompts.items()]
    dropped = Counter({"duplicate": rows.total() - len(rows), "row of empty cells": n_empty})
    return checked(relations, dict.fromkeys(fact for fact, _ in rows), dropped=+dropped)


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    lines = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    header = None
    while True:
        try:
            cells = next(lines, None)
        except csv.Error as error:
            raise UserError(f"{path}, line {lines.line_num}: no valid CSV: {error}; correct it") from error
        if cells is None:
            return
        place = f"{path}, line {lines.line_num}"
        if not cells:
            continue
        if not any(cell.strip() for cell in cells):
            if header is not None:
                yield place, dict.fromkeys(COLUMNS, "")
        elif header is None:
            header = [cell.strip() for cell in cells]
            _check_columns(header, place)
        elif len(cells) != len(header):
            raise UserError(
                f"{place}: {len(cells)} cells for {len(header)} columns; put a text that has a comma in double quotes"
            )
        else:
            yield place, dict(zip(header, cells, strict=True))


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    for place, record in json_lines(path):
        _check_columns(list(record), place)
        yield place, record


def _check_columns(columns: list[str], place: str) -> None:
    problems = [
        *(f"unknown column {name!r}" for name in columns if name not in COLUMNS),
        *(f"no column {name!r}" for name in COLUMNS if name not in columns),
        *(f"column {name!r} stands twice" for name in COLUMNS if columns.count(name) > 1),
    ]
    if problems:
        raise UserError(f"{place}: {', '.join(problems)}; the columns are: {', '.join(COLUMNS)}")
