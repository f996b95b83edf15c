"""Tokens of texts as answers: each is a fact of its own, of one row."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int

from jaxinterp.facts.encoding import EncodedQueries

FIRST = 2  # position of the first token that is read as an answer: <bos> is no token, and the next one has no context


def token_queries(
    tokens_NT: Int[np.ndarray, "N T"],
    length_N: Int[np.ndarray, " N"],
    place_N: Int[np.ndarray, " N"],
    facts: EncodedQueries,
) -> EncodedQueries:
    """One token of each text as an answer, of a relation and a subject that nothing else has; its fact's number is
    negative.

    So the only controls of such an answer are of kind "other" (see `jaxinterp.facts.controls`). Equal tokens are equal
    answers.

    Args:
      tokens_NT: texts.
      length_N: tokens of each before padding.
      place_N: position of the token.
      facts: what the texts are read together with; no number of theirs is used.
    """
    own = np.arange(len(tokens_NT))
    first_subject = 1 + int(max(facts.subject_N.max(), facts.answer_N.max()))  # numbered together
    return EncodedQueries(
        tokens_NT,
        length_N,
        place_N,
        np.ones_like(own),
        -1 - own,
        0 * own,
        1 + int(facts.relation_N.max()) + own,
        first_subject + own,
        facts.mask,
    )


def prompt_tokens(queries: EncodedQueries) -> Bool[np.ndarray, "N T"]:
    """Which tokens may be read without a word of the answer: from `FIRST` up to the answer, and none that is in it."""
    place = np.arange(queries.tokens_NT.shape[1])[None] - queries.answer_start_N[:, None]
    answer_NT = (place >= 0) & (place < queries.answer_length_N[:, None])
    same_NTT = queries.tokens_NT[:, :, None] == queries.tokens_NT[:, None, :]
    in_answer_NT = (same_NTT & answer_NT[:, None, :]).any(2)
    return (place < 0) & (np.arange(place.shape[1])[None] >= FIRST) & ~in_answer_NT


def together(a: EncodedQueries, b: EncodedQueries) -> EncodedQueries:
    """Both, padded to the longer one's positions; what stands in padding does not matter to a causal model."""
    width = max(a.tokens_NT.shape[1], b.tokens_NT.shape[1])
    tokens = [np.pad(part.tokens_NT, ((0, 0), (0, width - part.tokens_NT.shape[1]))) for part in (a, b)]
    names = [field.name for field in dataclasses.fields(a) if field.name not in ("tokens_NT", "mask")]
    rest = {name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in names}
    return EncodedQueries(np.concatenate(tokens), **rest, mask=a.mask)
