"""Grids of facts in words: every subject has an answer of its own in every relation; and plants as language models."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from jaxinterp.facts.facts import Fact, FactSet, Relation
from jaxinterp.groundtruth.circuit import Planted
from jaxinterp.groundtruth.table import FactTable
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.tokenizer_training import BOS, train_tokenizer


def grid_table(seed: int, *, n_subjects: int = 16, n_relations: int = 6) -> FactTable:
    """A fact for every subject and relation; no two facts share an answer, so that every kind of control exists."""
    n = n_subjects * n_relations
    subject_N = np.tile(np.arange(n_subjects), n_relations)
    relation_N = np.repeat(np.arange(n_relations), n_subjects)
    answer_N = np.random.default_rng([seed, *b"grid"]).permutation(n)
    return FactTable(n_subjects, n_relations, n, subject_N, relation_N, answer_N)


def in_words(table: FactTable) -> FactSet:
    """The facts of a table as texts, "subject3 relation1 answer7.", in the table's order."""
    relations = tuple(
        Relation(f"relation{index}", (f"{{subject}} relation{index}",), "table") for index in range(table.n_relations)
    )
    numbers = zip(table.relation_N.tolist(), table.subject_N.tolist(), table.answer_N.tolist(), strict=True)
    facts = tuple(Fact(relations[r].name, f"subject{s}", f"answer{a}") for r, s, a in numbers)
    return FactSet(relations, facts)


def language_model(planted: Planted, table: FactTable, about: str = "") -> LanguageModel:
    """A plant with a tokenizer of words, to be measured on `in_words(table)` as any model is.

    What the plant computes stays as it is: the tokens of the table get the numbers that the tokenizer gives to their
    words, and padding, the unknown word and the full stop have embeddings of zero.

    Args:
      planted: a plant of the table.
      table: its facts.
      about: where it comes from, for the model's provenance.
    """
    parts = (("subject", table.n_subjects), ("relation", table.n_relations), ("answer", table.n_answers))
    words = [BOS, *(f"{kind}{index}" for kind, n in parts for index in range(n))]
    tokenizer = train_tokenizer([" ".join(words[1:]) + "."])
    token_V = np.array([tokenizer.backend.token_to_id(word) for word in words])
    params = dict(planted.model.params)
    for name in ("embedding", "unembedding"):
        rows = np.zeros((tokenizer.n_tokens, planted.model.config.d_model), np.float32)
        rows[token_V] = params[name]
        params[name] = jnp.asarray(rows)
    config = dataclasses.replace(planted.model.config, d_vocab=tokenizer.n_tokens)
    return LanguageModel(Model(config, params), tokenizer, {"plant": about})
