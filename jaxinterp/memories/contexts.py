"""The distinct contexts of a corpus, and what each is about: what a neuron's triggers can have in common."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from jaxinterp.base.errors import UserError
from jaxinterp.facts.encoding import sentence
from jaxinterp.facts.facts import FactSet
from jaxinterp.facts.spelling import same_text
from jaxinterp.memories.corpus import Corpus, counted
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.tokenizers import TextTokenizer

N_GRAMS = (1, 2, 3)
OF_FACTS = ("relation", "domain", "answer", "subject")


class Told(NamedTuple):
    """What texts are about: by kind, a number for each text and what the numbers mean. See `told_by`."""

    number: Mapping[str, Int[np.ndarray, " N"]]
    names: Mapping[str, Sequence[str]]


class Feature(NamedTuple):
    """One kind of thing that contexts can share: a value for each of C contexts, −1 where it has none."""

    kind: str
    value_C: Int[np.ndarray, " C"]  # below the number of values
    n_contexts: Int[np.ndarray, " values"]  # that have each value
    name: Callable[[int], str]  # of a value, for people


class Contexts(NamedTuple):
    """What a model can have read at the tokens of a corpus; equal contexts give equal activations, and are one."""

    context_NT: Int[np.ndarray, "N T"]  # number of the context at a token, −1 at what is no token of a text
    first_NT: Bool[np.ndarray, "N T"]  # the first token with each context
    features: Sequence[Feature]

    @property
    def n(self) -> int:
        """Distinct contexts, C."""
        return int(self.first_NT.sum())


class FactTexts(NamedTuple):
    """Sentences of facts, what each is about, and how many the model's vocabulary lacks words of."""

    texts: list[str]
    told: Told
    dropped: int


def fact_texts(facts: FactSet, tokenizer: TextTokenizer, seed: int = 0) -> FactTexts:
    """The sentences of all facts with all prompts that a model can read, in an order of `seed`.

    Of equal activations the earlier token counts: in the order of the facts, those of the first relation would.

    Raises:
      UserError: if none can be read.
    """
    queries = np.random.default_rng([seed, *b"memories"]).permutation(facts.queries())
    texts = [sentence(facts, *query) for query in queries.tolist()]
    kept = [n for n, text in enumerate(texts) if not _obstacle(text, tokenizer)]
    if not kept:
        raise UserError(f"none of the {len(texts)} sentences about facts is all in the model's vocabulary")
    return FactTexts([texts[n] for n in kept], told_by(facts, queries[kept, 0]), len(texts) - len(kept))


def _obstacle(text: str, tokenizer: TextTokenizer) -> bool:
    return tokenizer.spelled_control_token(text) is not None or tokenizer.unknown_word(text) is not None


def told_by(facts: FactSet, fact_N: Int[np.ndarray, " N"]) -> Told:
    """What texts about facts are about: their relation, its domain, their subject and answer, by spelling."""
    chosen = [facts.facts[fact] for fact in fact_N.tolist()]
    values = {
        "relation": [fact.relation for fact in chosen],
        "domain": [facts.relation[fact.relation].domain for fact in chosen],
        "answer": [same_text(fact.answer) for fact in chosen],
        "subject": [same_text(fact.subject) for fact in chosen],
    }
    told = {kind: np.unique(of, return_inverse=True) for kind, of in values.items()}
    numbers = {kind: number for kind, (_, number) in told.items()}
    return Told(numbers, {kind: names.tolist() for kind, (names, _) in told.items()})


def contexts_of(model: LanguageModel, corpus: Corpus, told: Told | None = None) -> Contexts:
    """The distinct contexts of a corpus and their features.

    A context is what stands in a window up to a token, and the whole window for a model that sees both sides. What its
    text is about is a feature of a context only where the context says so: where all texts of the corpus with that
    context have the same value. So "The capital of" may have a relation, and has no subject.

    Args:
      model: whose tokens these are.
      corpus: as from `corpus_of`.
      told: what the corpus's texts are about; None leaves n-grams alone.
    """
    of_text_NT = counted(corpus, model.tokenizer)
    context_NT = _numbered(corpus.tokens_NT, of_text_NT, model.config.attention == "causal")
    row, column = np.nonzero(of_text_NT)
    _, first_C, context = np.unique(context_NT[row, column], return_index=True, return_inverse=True)
    context_NT = np.full(context_NT.shape, -1)
    context_NT[row, column] = context
    first_NT = np.zeros_like(of_text_NT)
    first_NT[row[first_C], column[first_C]] = True
    features = [_n_gram(n, model, corpus, of_text_NT, row[first_C], column[first_C]) for n in N_GRAMS]
    if told is not None:
        features += [
            _of_texts(kind, told.number[kind][corpus.text_N[row]], context, len(first_C), told.names[kind])
            for kind in OF_FACTS
        ]
    return Contexts(context_NT, first_NT, features)


def _numbered(tokens_NT: np.ndarray, of_text_NT: np.ndarray, causal: bool) -> np.ndarray:
    """A number for each token that is equal for equal contexts."""
    n_windows, width = tokens_NT.shape
    if not causal:
        alike_N = np.unique(np.where(of_text_NT, tokens_NT, -1), axis=0, return_inverse=True)[1].reshape(-1)
        return alike_N[:, None] * width + np.arange(width)[None]
    context_NT, before_N = np.empty(tokens_NT.shape, np.int64), np.zeros(n_windows, np.int64)
    for position in range(width):
        pairs = before_N * (int(tokens_NT.max()) + 1) + tokens_NT[:, position]
        before_N = np.unique(pairs, return_inverse=True)[1]
        context_NT[:, position] = before_N * width + position
    return context_NT


def _n_gram(
    n: int, model: LanguageModel, corpus: Corpus, of_text_NT: np.ndarray, row_C: np.ndarray, column_C: np.ndarray
) -> Feature:
    """The last n tokens, where a text has so many up to there."""
    tokenizer, code_C = model.tokenizer, np.zeros(len(row_C), np.int64)
    whole_C = (column_C >= n - 1) & of_text_NT[row_C, np.maximum(column_C - (n - 1), 0)]
    for back in range(n - 1, -1, -1):
        code_C = code_C * model.config.d_vocab + corpus.tokens_NT[row_C, np.maximum(column_C - back, 0)]
    found, first, number = np.unique(code_C[whole_C], return_index=True, return_inverse=True)
    value_C = np.full(len(row_C), -1)
    value_C[whole_C] = number
    at = np.flatnonzero(whole_C)[first]

    def name(value: int) -> str:
        last = column_C[at[value]]
        ids = corpus.tokens_NT[row_C[at[value]], last - n + 1 : last + 1]
        return tokenizer.token(int(ids[0])) if n == 1 else tokenizer.text(ids.tolist())

    kind = "last token" if n == 1 else f"last {n} tokens"
    return Feature(kind, value_C, np.bincount(number, minlength=len(found)), name)


def _of_texts(kind: str, number: np.ndarray, context: np.ndarray, n_contexts: int, names: Sequence[str]) -> Feature:
    """The number that all texts with a context have; −1 where they differ."""
    lowest_C, highest_C = np.full(n_contexts, len(names)), np.full(n_contexts, -1)
    np.minimum.at(lowest_C, context, number)
    np.maximum.at(highest_C, context, number)
    value_C = np.where(lowest_C == highest_C, lowest_C, -1)
    return Feature(kind, value_C, np.bincount(value_C[value_C >= 0], minlength=len(names)), lambda value: names[value])
