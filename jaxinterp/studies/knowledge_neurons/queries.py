"""Which facts a study asks, and what the model knows of them: one forward per query, which is cheap."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from jaxinterp.base.errors import UserError
from jaxinterp.base.records import Record
from jaxinterp.facts.encoding import EncodedQueries, encode
from jaxinterp.facts.facts import FactSet
from jaxinterp.metrics.recall import recalled
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.studies.by_fact import of_facts, record_by_fact, short
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
    dropped, unencodable = Counter(facts.dropped), {}
    drawn, n_all = facts.queries(config.prompts, config.seed), len(facts.queries())
    dropped["query above the limit of prompts"] += n_all - len(drawn)
    queries = encode(facts, drawn, model.tokenizer, n_ctx=model.config.n_ctx, dropped=unencodable)
    dropped.update({f"query: {reason}": number for reason, number in unencodable.items()})
    usable = set(queries.fact_N.tolist())
    dropped["fact without a prompt that can be encoded"] += len(facts) - len(usable)
    if config.one_token:
        several = set(queries.fact_N[queries.answer_length_N > 1].tolist())
        dropped["fact with an answer of several tokens"] += len(several)
        usable -= several
    if not usable:
        raise UserError(f"no fact of {config.facts} is left for {config.model}; left out: {_counted(dropped)}")
    record = Record(folder / "abilities.jsonl")

    def answers(part: EncodedQueries) -> list[dict]:
        columns = recalled(model.model, part, rows=rows_of(part, None))
        pairs = zip(columns["probability"], columns["correct"] > 0, strict=True)
        return [{"probability": short(probability), "correct": bool(correct)} for probability, correct in pairs]

    def ask(chosen: set[int], title: str) -> set[int]:
        """Records what the model answers; the facts that it gets right with a prompt."""
        part = of_facts(queries, chosen)
        record_by_fact(record, facts, part, ASKED * rows_of(part, None), answers, title)
        return {fact for fact in chosen if any(query["correct"] for query in record[fact]["queries"])}

    tried = None
    if config.known_only:
        within = _drawn(facts, usable, config.tried, config.seed)
        dropped["fact above the limit of tries"] += len(usable) - len(within)
        tried, known = _known(facts, within, config, ask)
        if not known:
            raise UserError(
                f"{config.model} gets none of {len(tried)} facts of {config.facts} right; do without known_only"
            )
        chosen = _drawn(facts, known, config.limit, config.seed)
        dropped["fact that the model does not know"] += len(tried) - len(known)
        dropped["fact above the limit, not tried"] += len(within) - len(tried)
        dropped["fact above the limit, known"] += len(known) - len(chosen)
    else:
        chosen = _drawn(facts, usable, config.limit, config.seed)
        dropped["fact above the limit"] += len(usable) - len(chosen)
        ask(chosen, "ask")
    queries = of_facts(queries, chosen)
    queries = dataclasses.replace(queries, tokens_NT=queries.tokens_NT[:, : int(queries.length_N.max())])
    correct = [answer["correct"] for fact in sorted(chosen) for answer in record[fact]["queries"]]
    return Asked(facts, queries, np.array(correct), _counted(dropped), None if tried is None else len(tried))


def _counted(dropped: Counter) -> dict[str, int]:
    return {reason: number for reason, number in dropped.items() if number}


def _drawn(facts: FactSet, chosen: set[int], limit: int, seed: int) -> set[int]:
    """At most `limit` of the chosen facts in each relation, 0 for all; a higher limit adds to a lower one's."""
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
        counts = Counter(facts.facts[fact].relation for fact in known)
        wanted = {fact for fact in usable if not config.limit or counts[facts.facts[fact].relation] < config.limit}
        new = (_drawn(facts, wanted, limit, config.seed) if wanted else set()) - tried
        if not new and wanted <= tried:
            return tried, known
        if new:
            known |= ask(new, f"ask, round {number}")
            tried |= new
            number += 1
        limit *= 2
