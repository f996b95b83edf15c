"""The data of a run: facts, split, tokenizer, and the batch of every step as a pure function of the step."""

import dataclasses

import numpy as np
from jaxtyping import Bool
from tokenizers import Tokenizer

from jaxinterp.facts.encoding import EncodedQueries, QueryBatch, encode, query_batch, sentence
from jaxinterp.facts.facts import FactSet, Split
from jaxinterp.facts.worldfacts import world_facts
from jaxinterp.models.tokenizers import train_tokenizer
from jaxinterp.training.config import DataConfig


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Everything that a run reads."""

    facts: FactSet
    split: Split
    tokenizer: Tokenizer
    queries: EncodedQueries  # of the training set
    in_objective_N: Bool[np.ndarray, " N"]  # which of them the objective may use


def training_data(config: DataConfig) -> TrainingData:
    """Builds facts, split, tokenizer and encoded sentences.

    Raises:
      UserError: if a domain or relation is unknown, a set of the split is empty, or the vocabulary is too small.
    """
    facts = world_facts(config.domains).select(relations=config.relations)
    return data_of_facts(facts, config)


def data_of_facts(facts: FactSet, config: DataConfig) -> TrainingData:
    """`training_data` for facts of one's own; `config.domains` and `config.relations` are not looked at."""
    split = facts.split(config.split)
    corpus = (sentence(facts, *query) for query in split.training.tolist())
    tokenizer = train_tokenizer(corpus, kind=config.tokenizer, vocab_size=config.vocab_size)
    queries = encode(facts, split.training, tokenizer)
    n_prompts = max(len(relation.prompts) for relation in facts.relations)
    in_objective = np.isin(split.training @ [n_prompts, 1], split.objective @ [n_prompts, 1])
    return TrainingData(facts, split, tokenizer, queries, in_objective)


def batch_at(data: TrainingData, *, seed: int, step: int, n_sequences: int, n_rows: int) -> QueryBatch:
    """The batch of a step: every epoch is a fresh permutation, and an epoch's last partial batch is left out.

    A pure function of its arguments, so that a run that resumes at any step sees the data that it would have seen.
    """
    n_sequences = min(n_sequences, len(data.queries))
    per_epoch = len(data.queries) // n_sequences
    epoch, position = divmod(step, per_epoch)
    order = np.random.default_rng([seed, 0, epoch]).permutation(len(data.queries))
    chosen = order[position * n_sequences : (position + 1) * n_sequences]
    batch, _ = query_batch(
        data.queries[chosen],
        n_sequences=n_sequences,
        n_rows=n_rows,
        answered=np.flatnonzero(data.in_objective_N[chosen]),
        rng=np.random.default_rng([seed, 1, step]),
    )
    return batch
