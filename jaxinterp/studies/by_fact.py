"""Values of queries that a study records fact by fact."""

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxinterp.base.progress import progress
from jaxinterp.base.records import Record
from jaxinterp.facts.encoding import EncodedQueries
from jaxinterp.facts.facts import FactSet


def record_by_fact(
    record: Record,
    facts: FactSet,
    queries: EncodedQueries,
    rows: int,
    values: Callable[[EncodedQueries], list[dict]],
    title: str,
) -> None:
    """Records every fact's queries: {"fact", "relation", "subject", "answer", "queries": a value for each, in order}.

    Args:
      record: where to; what it has already is not computed again.
      facts: what the queries are of.
      queries: in the order of their facts.
      rows: answer tokens that are computed and recorded together, of at least one fact.
      values: queries -> a value for each.
      title: of the progress.
    """
    parts: list[list[int]] = []
    used, n_rows = rows, np.bincount(queries.fact_N, queries.answer_length_N).astype(int)
    for fact in np.unique(queries.fact_N).tolist():
        if used + n_rows[fact] > rows:
            parts.append([])
            used = 0
        parts[-1].append(fact)
        used += n_rows[fact]

    def lines(part: list[int]) -> list[dict]:
        chosen = of_facts(queries, set(part))
        found: dict[int, list[dict]] = {fact: [] for fact in part}
        for fact, value in zip(chosen.fact_N.tolist(), values(chosen), strict=True):
            found[fact].append(value)
        return [{"fact": fact, **dataclasses.asdict(facts.facts[fact]), "queries": found[fact]} for fact in part]

    before = sum(fact in record for part in parts for fact in part)
    with progress(title, sum(map(len, parts)), done=before) as report:
        record.fill(parts, lines, lambda n: report(n, "facts"))


def of_facts(queries: EncodedQueries, chosen: set[int]) -> EncodedQueries:
    """The queries of some facts."""
    return queries[np.flatnonzero(np.isin(queries.fact_N, list(chosen)))]


def short(value: float | np.floating) -> float:
    """The number with the nine digits that tell any two float32 apart, so that a line stays readable."""
    return float(f"{value:.9g}")
