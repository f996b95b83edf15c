"""The data of a run: facts, split, text, tokenizer, and the batch of every step as a pure function of the step."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from jaxinterp.base.configs import from_json
from jaxinterp.base.errors import UserError
from jaxinterp.base.provenance import DATA_PACKAGES
from jaxinterp.facts.batches import QueryBatch, earlier, query_batch
from jaxinterp.facts.encoding import EncodedQueries, encode, sentence
from jaxinterp.facts.facts import FactSet
from jaxinterp.facts.splits import Split, split_facts
from jaxinterp.facts.text_tokens import prompt_tokens, together, token_queries
from jaxinterp.facts.worldfacts import world_facts
from jaxinterp.models.tokenizer_training import train_tokenizer
from jaxinterp.models.tokenizers import TextTokenizer
from jaxinterp.training.config import DataConfig
from jaxinterp.training.routing import Routing, route_of
from jaxinterp.training.texts import Documents, TextData, documents_of, windows_of

PYTHON = "python"  # the text that is no folder


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingData:
    """Everything that a run reads."""

    facts: FactSet
    split: Split
    tokenizer: TextTokenizer
    queries: EncodedQueries  # of the training set
    n_positions: int  # tokens of the longest sentence, held-out prompts included, or of a longer window of text
    in_objective_N: Bool[np.ndarray, " N"]  # which of them the objective may use
    text: TextData | None = None

    def digests(self) -> dict[str, str]:
        """What a run reads -> its digest."""
        text = {} if self.text is None else {"text": self.text.documents.digest}
        return {"facts": self.facts.digest(), **text}


def training_data(config: DataConfig) -> TrainingData:
    """Builds facts, split, tokenizer, encoded sentences and windows of text.

    Raises:
      UserError: if a domain or relation is unknown, a set of the split is empty, the vocabulary is too small, or the
        text is not there or too short.
    """
    return data_of_facts(limited_facts(config), config)


def limited_facts(config: DataConfig) -> FactSet:
    """The facts of a config's domains, relations and limit."""
    return world_facts(config.domains).select(relations=config.relations).limited(config.limit)


def data_of_facts(facts: FactSet, config: DataConfig) -> TrainingData:
    """`training_data` for facts of one's own; `config.domains`, `relations` and `limit` are not looked at."""
    split = split_facts(facts, config.split)
    sentences, documents = (sentence(facts, *query) for query in split.training.tolist()), text_documents(config)
    read = () if documents is None else documents.training.values()
    # Words that a vocabulary of words lacks could not be told apart where the model is measured.
    aside = () if documents is None or config.tokenizer != "word" else documents.held_out.values()
    corpus = itertools.chain(sentences, read, aside)
    tokenizer = train_tokenizer(corpus, kind=config.tokenizer, vocab_size=config.vocab_size)
    queries = encode(facts, split.training, tokenizer)
    # Held-out prompts are not trained on, but measured: what cannot be encoded should stop the run now.
    held_out = encode(facts, split.held_out_prompts, tokenizer)
    n_positions = max(queries.tokens_NT.shape[1], held_out.tokens_NT.shape[1])
    text = None
    if documents is not None:
        length = config.text_length or n_positions
        text = windows_of(documents, tokenizer, length).limited(config.text_tokens)
        n_positions = max(n_positions, length)
    n_prompts = max(len(relation.prompts) for relation in facts.relations)
    in_objective = np.isin(split.training @ [n_prompts, 1], split.objective @ [n_prompts, 1])
    return TrainingData(facts, split, tokenizer, queries, n_positions, in_objective, text)


def text_documents(config: DataConfig) -> Documents | None:
    """The documents that a config names; None if there are none.

    Raises:
      UserError: if there is no such folder, or it has no text.
    """
    if not config.text:
        return None
    return documents_of(None if config.text == PYTHON else Path(config.text))


def data_from_provenance(provenance: Mapping) -> TrainingData:
    """The facts and split that a model was trained with, from what its folder says.

    Raises:
      UserError: if the folder does not say it, or the facts or the text are others today (as those of another release
        of a data package, or of Python).
    """
    try:
        data = training_data(from_json(DataConfig, provenance["config"]["data"], "the model's provenance.json"))
        digest, versions = provenance["data"]["sha256"], provenance["packages"]
    except (KeyError, TypeError):
        raise UserError("the model's provenance.json does not say which facts it was trained on") from None
    if data.facts.digest() != digest:
        raise UserError(
            "the model was trained on other facts than there are today: install the data packages that it was trained "
            f"with ({', '.join(f'{name} {versions[name]}' for name in DATA_PACKAGES)})"
        )
    if data.text is not None and data.text.documents.digest != provenance["data"]["text"]["sha256"]:
        raise UserError(
            f"the model was trained on other text than {data.text.documents.source} is today: bring back what it read, "
            "or the version of Python that it was trained with"
        )
    return data


def batch_at(
    data: TrainingData,
    *,
    seed: int,
    step: int,
    n_sequences: int,
    n_rows: int,
    n_subjects: int,
    n_controls: int = 1,
    n_windows: int = 0,
    text_rows: bool = False,
    routing: Routing | None = None,
) -> QueryBatch:
    """The batch of a step: every epoch has each sentence once (see `epoch`), but for a last partial batch.

    Windows of text come after the sentences, each of them once an epoch of their own (see `text_windows`).

    A pure function of its arguments, so that a run that resumes at any step sees the data that it would have seen.

    Args:
      data: sentences.
      seed, step: what the draws depend on.
      n_sequences, n_rows, n_controls: see `query_batch`.
      n_subjects: see `epoch`.
      n_windows: of text; the sentences, the answers of the objective and their controls are the same with it and
        without.
      text_rows: see `_with_text`; the sentences and the answers of the objective are the same with it and without.
      routing: see `route_of`; None is no route.
    """
    n_sequences = min(n_sequences, len(data.queries))
    number, position = divmod(step, len(data.queries) // n_sequences)
    chosen = epoch(data, seed, number, n_sequences, n_subjects)[position]
    rng = np.random.default_rng([seed, 1, step])
    sentences, in_objective = data.queries[chosen], data.in_objective_N[chosen]
    if n_windows:
        sentences = together(sentences, text_windows(data, seed, step, n_windows))
        in_objective = np.concatenate([in_objective, np.zeros(n_windows, bool)])
    queries = sentences
    # Shuffled, for those that do not fit into the rows are left out.
    answered = rng.permutation(np.flatnonzero(in_objective))
    if text_rows:
        queries, more = _with_text(queries, in_objective, np.random.default_rng([seed, 2, step]))
        answered = np.concatenate([answered, more])
    batch, _ = query_batch(
        queries,
        n_sequences=n_sequences + n_windows,
        n_rows=n_rows,
        answered=answered,
        rng=rng,
        n_controls=n_controls,
    )
    if n_windows:
        batch = batch._replace(text_B=np.repeat(np.float32([0, 1]), [n_sequences, n_windows]))
    return batch if routing is None else batch._replace(route=route_of(routing, sentences, in_objective))


def text_windows(data: TrainingData, seed: int, step: int, n: int) -> EncodedQueries:
    """The windows of a step's batch: all windows in an order, then all in another one, …, cut into steps.

    As texts without an answer, all of whose tokens stand before it.
    """
    windows_NT = data.text.training_NT
    epochs, place = np.divmod(step * n + np.arange(n), len(windows_NT))
    order = {number: _order_of_text(len(windows_NT), seed, number) for number in set(epochs.tolist())}
    tokens = windows_NT[[order[number][at] for number, at in zip(epochs.tolist(), place.tolist(), strict=True)]]
    length = np.full(n, tokens.shape[1])
    read = token_queries(tokens, length, length, data.queries)
    return dataclasses.replace(read, answer_length_N=np.zeros(n, int))


@functools.lru_cache(maxsize=4)
def _order_of_text(n: int, seed: int, number: int) -> Int[np.ndarray, " n"]:
    return np.random.default_rng([seed, 4, number]).permutation(n)


def _with_text(
    queries: EncodedQueries, in_objective_N: Bool[np.ndarray, " N"], rng: np.random.Generator
) -> tuple[EncodedQueries, Int[np.ndarray, " M"]]:
    """The sentences, of which those outside the objective ask for a token of their prompt; and which of these can.

    The token is drawn out of `prompt_tokens`, so that the objective still sees no answer of these sentences. A sentence
    without such a token is not answered. The order of those that can be is drawn as well. Windows of text are such
    sentences, too.
    """
    kept, free = np.flatnonzero(in_objective_N), np.flatnonzero(~in_objective_N)
    text = queries[free]
    draw_MT = np.where(prompt_tokens(text), rng.random(text.tokens_NT.shape), -1.0)
    asked = token_queries(text.tokens_NT, text.length_N, draw_MT.argmax(1), queries)
    order = np.argsort(np.concatenate([kept, free]))
    return together(queries[kept], asked)[order], rng.permutation(free[draw_MT.max(1) >= 0])


@functools.lru_cache(maxsize=2)
def epoch(data: TrainingData, seed: int, number: int, n_sequences: int, n_subjects: int) -> Int[np.ndarray, "S B"]:
    """The sentences of an epoch's S batches: each is about few subjects in several relations.

    An answer is compared with answers of the same relation and of the same subject, which must be in its batch. Each
    pass over the facts (in another prompt of each) divides the subjects anew into groups of `n_subjects`, orders the
    relations of each group anew, and is cut into batches; these are then shuffled.
    """
    queries, rng = data.queries, np.random.default_rng([seed, 0, number])
    n = len(queries)
    shuffled = rng.permutation(n)
    turn = np.empty(n, int)
    turn[shuffled] = earlier(queries.fact_N[shuffled])
    subject, relation = (np.unique(of, return_inverse=True)[1] for of in (queries.subject_N, queries.relation_N))
    n_turns, n_groups = turn.max() + 1, -(-(subject.max() + 1) // n_subjects)
    rank = np.argsort(np.argsort(rng.random((n_turns, subject.max() + 1)), axis=1), axis=1)
    group = rank[turn, subject] // n_subjects
    relation_order = rng.random((n_turns, n_groups, relation.max() + 1))[turn, group, relation]
    order = np.lexsort((relation_order, group, turn))
    batches = order[: n // n_sequences * n_sequences].reshape(-1, n_sequences)
    return batches[rng.permutation(len(batches))]
