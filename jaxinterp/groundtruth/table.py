"""A small table of made-up facts, and the prompts that ask for them."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from jaxinterp.base.errors import UserError
from jaxinterp.models.readout import Rows


@dataclasses.dataclass(frozen=True)
class FactTable:
    """Fact n: in relation `relation_N[n]` the answer for subject `subject_N[n]` is `answer_N[n]`, all counted from 0.

    Tokens are 0 for the start, then the subjects, the relations and the answers. A prompt is start, subject, relation;
    the answer is read at the relation, which sees the subject through attention alone.
    """

    n_subjects: int
    n_relations: int
    n_answers: int
    subject_N: Int[np.ndarray, " N"]
    relation_N: Int[np.ndarray, " N"]
    answer_N: Int[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.subject_N)

    @property
    def d_vocab(self) -> int:
        """Number of tokens."""
        return 1 + self.n_subjects + self.n_relations + self.n_answers

    @property
    def first_answer(self) -> int:
        """Token of answer 0."""
        return 1 + self.n_subjects + self.n_relations

    def sentences(self) -> Int[np.ndarray, "N 4"]:
        """Start, subject, relation, answer."""
        start_N = np.zeros(len(self), int)
        relation_N = 1 + self.n_subjects + self.relation_N
        return np.stack([start_N, 1 + self.subject_N, relation_N, self.first_answer + self.answer_N], 1)

    def rows(self) -> Rows:
        """The answers in the batch of all sentences, or of all prompts: a row a fact."""
        query_N = jnp.full(len(self), 2)
        return Rows(jnp.arange(len(self)), query_N, jnp.asarray(self.first_answer + self.answer_N))


def fact_table(seed: int, *, n_subjects: int = 6, n_relations: int = 4, n_answers: int = 8) -> FactTable:
    """A fact for every subject and relation; two subjects of one relation never share an answer.

    Raises:
      UserError: if there are fewer answers than subjects.
    """
    if n_answers < n_subjects:
        raise UserError(f"n_answers must be at least n_subjects ({n_subjects}), got {n_answers}")
    rng = np.random.default_rng([seed, *b"table"])
    answers = [rng.permutation(n_answers)[:n_subjects] for _ in range(n_relations)]
    subject_N = np.tile(np.arange(n_subjects), n_relations)
    relation_N = np.repeat(np.arange(n_relations), n_subjects)
    return FactTable(n_subjects, n_relations, n_answers, subject_N, relation_N, np.concatenate(answers))
