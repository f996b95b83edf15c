"""Which facts a study asks, and what the model knows of them: one forward a query, which is cheap."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxinterp.base.errors import UserError
from jaxinterp.base.progress import progress
from jaxinterp.facts.batches import QueryBatch
from jaxinterp.facts.encoding import EncodedQueries, encode
from jaxinterp.facts.facts import FactSet
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.readout import row_logits
from jaxinterp.models.transformer import forward
from jaxinterp.studies.knowledge_neurons.config import KnowledgeNeuronsConfig
from jaxinterp.studies.knowledge_neurons.records import Record, fill, short

LOGITS = 1e9  # bytes, about, of logits in a forward of many queries


@dataclasses.dataclass(frozen=True)
class Asked:
    """The queries of a study, in the order of their facts, and what was left out on the way."""

    facts: FactSet  # `queries.fact_N` is an index into its facts
    queries: EncodedQueries
    correct_N: Bool[np.ndarray, " N"]  # whether every token of the answer is the most probable one
    probability_N: Float[np.ndarray, " N"]  # of the whole answer
    dropped: Mapping[str, int]  # reason -> number, in the order of the steps
    tried: int | None  # facts that were tried to find those that the model knows; None if it was not asked for


def choose(model: LanguageModel, facts: FactSet, config: KnowledgeNeuronsConfig, folder: Path) -> Asked:
    """Draws the facts and prompts, and asks the model for them.

    In the order of the steps: a causal model is asked only prompts that end in the answer; `config.prompts` prompts of
    each fact are drawn; queries that cannot be encoded go; with `one_token`, facts with an answer of several tokens go;
    with `known_only`, at most `config.tried` facts of each relation are tried and those that the model gets right with
    none of their prompts go; of the rest, `config.limit` facts of each relation are drawn. What the model answers is
    recorded in `folder`, fact by fact.

    Args:
      model: a language model.
      facts: all of them.
      config: the study's.
      folder: of the study.
    Raises:
      UserError: if no fact is left.
    """
    causal = model.config.attention == "causal"
    facts = facts.answer_last() if causal else facts
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

    def asked(chosen: set[int], title: str) -> dict[int, dict]:
        """What the model answers; the record's line of each fact."""
        mine = queries[np.flatnonzero(np.isin(queries.fact_N, list(chosen)))]
        _ask(model, facts, mine, record, title)
        return {fact: record[fact] for fact in chosen}

    tried = None
    if config.known_only and config.tried:
        within = _drawn(facts, usable, config.tried, config.seed)
        drop("fact above the limit of tries", len(usable) - len(within))
        usable = within
    if config.known_only:
        tried, known = _known(facts, usable, config, asked)
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
        asked(chosen, "ask")
    queries = queries[np.flatnonzero(np.isin(queries.fact_N, list(chosen)))]
    width = int(queries.length_N.max())
    queries = dataclasses.replace(queries, tokens_NT=queries.tokens_NT[:, :width])
    answers = [answer for fact in sorted(chosen) for answer in record[fact]["queries"]]
    return Asked(
        facts,
        queries,
        np.array([answer["correct"] for answer in answers]),
        np.array([answer["probability"] for answer in answers]),
        dropped,
        None if tried is None else len(tried),
    )


def _drawn(facts: FactSet, chosen: set[int], limit: int, seed: int) -> set[int]:
    """At most `limit` of the chosen facts in each relation; a higher limit adds to a lower one's."""
    ordered = sorted(chosen)
    index = {facts.facts[fact]: fact for fact in ordered}
    subset = FactSet(facts.relations, tuple(facts.facts[fact] for fact in ordered))
    return {index[fact] for fact in subset.limited(limit, seed).facts}


def _known(
    facts: FactSet,
    usable: set[int],
    config: KnowledgeNeuronsConfig,
    asked: Callable[[set[int], str], dict[int, dict]],
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
            answers = asked(new, f"ask, round {number}")
            known |= {fact for fact, line in answers.items() if any(query["correct"] for query in line["queries"])}
            tried |= new
            number += 1
        limit *= 2


def _ask(model: LanguageModel, facts: FactSet, queries: EncodedQueries, record: Record, title: str) -> None:
    step = _answer_step(model.config)
    longest, most = int(queries.length_N.max()), int(queries.answer_length_N.max())
    rows = max(most, int(np.clip(LOGITS / (4 * longest * model.config.d_vocab), 1, 64)))

    def answers(batch: QueryBatch, taken: np.ndarray) -> list[dict]:
        probability_R, correct_R = jax.device_get(step(model.params, batch))
        owners = [
            np.flatnonzero((batch.answers.answer_R == answer) & (batch.answers.weight_R > 0))
            for answer in range(len(taken))
        ]
        return [
            {"probability": short(probability_R[rows].prod(dtype=np.float64)), "correct": bool(correct_R[rows].all())}
            for rows in owners
        ]

    mine = np.unique(queries.fact_N).tolist()
    before = sum(fact in record for fact in mine)
    with progress(title, len(mine), done=before) as report:
        fill(record, queries, rows, answers, lambda fact: description(facts, fact), lambda n: report(n, "facts"))


def description(facts: FactSet, fact: int) -> dict:
    """A fact for the reader of a record."""
    return dataclasses.asdict(facts.facts[fact])


@functools.lru_cache(maxsize=8)
def _answer_step(config: ModelConfig) -> Callable:
    @jax.jit
    def step(params: Mapping, batch: QueryBatch) -> tuple[Array, Array]:
        result = forward(Model(config, params), batch.tokens_BT, length_B=batch.length_B)
        logits_RV = row_logits(Model(config, params), result, batch.rows)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits_RV), batch.rows.target_R[:, None], axis=-1)[:, 0]
        return jnp.exp(log_p), logits_RV.argmax(-1) == batch.rows.target_R

    return step
