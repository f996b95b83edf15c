"""Which facts a study asks, and what the model knows of them: one forward per query, which is cheap."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from jaxinterp.base.errors import UserError
from jaxinterp.base.progress import progress
from jaxinterp.base.records import Record
from jaxinterp.facts.encoding import EncodedQueries, encode
from jaxinterp.facts.facts import FactSet
from jaxinterp.metrics.recall import recalled
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.studies.knowledge_neurons.config import KnowledgeNeuronsConfig

ROWS = 32  # answer tokens at once, if the config does not say
ASKED = 16  # batches of queries that are asked and recorded together


@dataclasses.dataclass(frozen=True)
class Asked:
    """The queries of a study, in the order of their facts, and what was left out on the way."""

    facts: FactSet  # `queries.fact_N` is an index into its facts
    queries: EncodedQueries
    correct_N: Bool[np.ndarray, " N"]  # whether every token of the answer is the most probable one
    dropped: Mapping[str, int]  # reason -> number, in the order of the steps
    tried: int | None  # facts that were tried to find those that the model knows; None if it was not asked for

    def relations(self, fact_N: np.ndarray) -> np.ndarray:
        """The names of facts' relations."""
        return np.array([self.facts.facts[fact].relation for fact in fact_N.tolist()], dtype=str)


def rows_of(queries: EncodedQueries, rows: int | None) -> int:
    """Answer tokens of a batch: as given, or `ROWS` if no answer is longer."""
    return rows or max(ROWS, int(queries.answer_length_N.max()))


def choose(model: LanguageModel, facts: FactSet, config: KnowledgeNeuronsConfig, folder: Path) -> Asked:
    """Draws the facts and prompts, and asks the model for them.

    In the order of the steps: a causal model is asked only prompts that end in the answer; `config.prompts` prompts of
    each fact are drawn; queries that cannot be encoded go; with `one_token`, facts with an answer of several tokens go;
    with `known_only`, at most `config.tried` facts of each relation are tried and those that the model gets right with
    none of their prompts go; of the rest, `config.limit` facts of each relation are drawn. The model's answers are
    recorded in `folder`, fact by fact.

    Raises:
      UserError: if no fact is left.
    """
    facts = facts.answer_last() if model.config.attention == "causal" else facts
    dropped = dict(facts.dropped)

    def drop(reason: str, number: int) -> None:
        if number:
            dropped[reason] = dropped.get(reason, 0) + number

    drawn, n_all = facts.queries(config.prompts, config.seed), len(facts.queries())
    drop("query above the limit of prompts", n_all - len(drawn))
    unencodable: dict[str, int] = {}
    queries = encode(facts, drawn, model.tokenizer, n_ctx=model.config.n_ctx, dropped=unencodable)
    for reason, number in unencodable.items():
        drop(f"query: {reason}", number)
    usable = set(queries.fact_N.tolist())
    drop("fact without a prompt that can be encoded", len(facts) - len(usable))
    if config.one_token:
        several = set(queries.fact_N[queries.answer_length_N > 1].tolist())
        drop("fact with an answer of several tokens", len(several))
        usable -= several
    if not usable:
        raise UserError(f"no fact of {config.facts} is left for {config.model}; left out: {dropped}")
    record = Record(folder / "abilities.jsonl")

    def answers(part: EncodedQueries) -> list[dict]:
        columns = recalled(model.model, part, rows=rows_of(part, None))
        pairs = zip(columns["probability"], columns["correct"] > 0, strict=True)
        return [{"probability": short(probability), "correct": bool(correct)} for probability, correct in pairs]

    def ask(chosen: set[int], title: str) -> set[int]:
        """Records what the model answers; the facts that it gets right with a prompt."""
        part = of_facts(queries, chosen)
        by_fact(record, facts, part, ASKED * rows_of(part, None), answers, title)
        return {fact for fact in chosen if any(query["correct"] for query in record[fact]["queries"])}

    tried = None
    if config.known_only and config.tried:
        within = _drawn(facts, usable, config.tried, config.seed)
        drop("fact above the limit of tries", len(usable) - len(within))
        usable = within
    if config.known_only:
        tried, known = _known(facts, usable, config, ask)
        if not known:
            raise UserError(
                f"{config.model} gets none of {len(tried)} facts of {config.facts} right; do without known_only"
            )
        chosen = _drawn(facts, known, config.limit, config.seed)
        drop("fact that the model does not know", len(tried) - len(known))
        drop("fact above the limit, not tried", len(usable) - len(tried))
        drop("fact above the limit, known", len(known) - len(chosen))
    else:
        chosen = _drawn(facts, usable, config.limit, config.seed)
        drop("fact above the limit", len(usable) - len(chosen))
        ask(chosen, "ask")
    queries = of_facts(queries, chosen)
    queries = dataclasses.replace(queries, tokens_NT=queries.tokens_NT[:, : int(queries.length_N.max())])
    correct = [answer["correct"] for fact in sorted(chosen) for answer in record[fact]["queries"]]
    return Asked(facts, queries, np.array(correct), dropped, None if tried is None else len(tried))


def of_facts(queries: EncodedQueries, chosen: set[int]) -> EncodedQueries:
    """The queries of some facts."""
    return queries[np.flatnonzero(np.isin(queries.fact_N, list(chosen)))]


def _drawn(facts: FactSet, chosen: set[int], limit: int, seed: int) -> set[int]:
    """At most `limit` of the chosen facts in each relation; a higher limit adds to a lower one's."""
    ordered = sorted(chosen)
    index = {facts.facts[fact]: fact for fact in ordered}
    subset = FactSet(facts.relations, tuple(facts.facts[fact] for fact in ordered))
    return {index[fact] for fact in subset.limited(limit, seed).facts}


def _known(
    facts: FactSet, usable: set[int], config: KnowledgeNeuronsConfig, ask: Callable[[set[int], str], set[int]]
) -> tuple[set[int], set[int]]:
    """The facts that were tried and those of them that the model knows, at least `limit` of each relation if it can.

    Facts are tried in the order in which the limit draws them, twice as many at a time, so that a relation of which the
    model knows enough is not asked to its end; those that are known are a random sample of all that it knows.
    """
    tried: set[int] = set()
    known: set[int] = set()
    limit, number = config.limit, 1
    while True:
        counts = {relation.name: 0 for relation in facts.relations}
        for fact in known:
            counts[facts.facts[fact].relation] += 1
        wanted = {fact for fact in usable if not config.limit or counts[facts.facts[fact].relation] < config.limit}
        new = (_drawn(facts, wanted, limit, config.seed) if wanted else set()) - tried
        if not new and wanted <= tried:
            return tried, known
        if new:
            known |= ask(new, f"ask, round {number}")
            tried |= new
            number += 1
        limit *= 2


def by_fact(
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


def short(value: float | np.floating) -> float:
    """The number with the nine digits that tell any two float32 apart, so that a line stays readable."""
    return float(f"{value:.9g}")
