"""Tokens of texts as answers, by hand."""

import numpy as np

from jaxinterp.facts.controls import CONTROL_KINDS, draw_controls
from jaxinterp.facts.encoding import EncodedQueries
from jaxinterp.facts.text_tokens import prompt_tokens, together, token_queries

# <bos> is 1, padding 0. Answers: 7 8; 9; 4; 6.
TOKENS = np.array(
    [
        [1, 2, 3, 8, 5, 7, 8, 6],  # 8 stands before the answer as well
        [1, 2, 4, 5, 9, 6, 0, 0],
        [1, 3, 4, 2, 0, 0, 0, 0],  # the answer is the first token with a context
        [1, 6, 6, 6, 0, 0, 0, 0],
    ],
    np.int32,
)
FACTS = EncodedQueries(
    TOKENS,
    length_N=np.array([8, 6, 4, 4]),
    answer_start_N=np.array([5, 4, 2, 3]),
    answer_length_N=np.array([2, 1, 1, 1]),
    fact_N=np.array([3, 5, 0, 1]),
    prompt_N=np.array([1, 0, 0, 2]),
    relation_N=np.array([0, 1, 1, 2]),
    subject_N=np.array([4, 4, 2, 0]),
)


def test_which_tokens_can_be_read_by_hand():
    places = [np.flatnonzero(row).tolist() for row in prompt_tokens(FACTS)]
    assert places == [[2, 4], [2, 3], [], []]


def test_a_text_token_is_a_fact_of_its_own():
    tokens = token_queries(TOKENS[:3], FACTS.length_N[:3], np.array([2, 2, 2]), FACTS)
    assert tokens.answer_length_N.tolist() == [1, 1, 1] and tokens.length_N.tolist() == [8, 6, 4]
    for name in ("fact_N", "relation_N", "subject_N"):
        own = getattr(tokens, name).tolist()
        assert len(set(own)) == 3 and not set(own) & set(getattr(FACTS, name).tolist())
    # Subjects and answers are numbered together. The second and third ask for the same token.
    used = {*FACTS.subject_N.tolist(), *FACTS.answer_N.tolist(), *tokens.subject_N.tolist()}
    assert not used & set(tokens.answer_N.tolist())
    first, second, third = tokens.answer_N.tolist()
    assert second == third != first
    # As a control it is neither of the same relation nor of the same subject, but it is one.
    drawn = draw_controls(together(FACTS, tokens), CONTROL_KINDS, 7, np.random.default_rng(0))
    relation, subject, other = (set(kind[kind >= 0].tolist()) for kind in drawn[:, :, :4])
    assert not {4, 5, 6} & (relation | subject) and {4, 5, 6} <= other
    assert (drawn[:2, :, 4:] == -1).all() and (drawn[2, :, 4:] >= 0).any(0).all()


def test_texts_of_two_lengths_stand_together():
    tokens = token_queries(TOKENS[:1, :4], np.array([4]), np.array([3]), FACTS)
    both = together(FACTS, tokens)
    np.testing.assert_array_equal(both.tokens_NT[4], [1, 2, 3, 8, 0, 0, 0, 0])
    np.testing.assert_array_equal(both.tokens_NT[:4], TOKENS)
    assert both.answer_start_N.tolist() == [5, 4, 2, 3, 3] and both.answer_N[:4].tolist() == FACTS.answer_N.tolist()
