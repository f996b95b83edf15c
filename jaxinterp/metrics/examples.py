"""What is measured: N answers of something that can be read, in batches, and who is whose control.

A language model's answers to prompts are one kind of examples. Anything else that has a readout is another: the images
of a classifier, the positions of a game.
"""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.attribution.answers import Answers, whole_rows
from jaxinterp.attribution.readout import Readout
from jaxinterp.base.errors import UserError
from jaxinterp.facts.batches import QueryBatch
from jaxinterp.facts.controls import CONTROL_KINDS, draw_controls
from jaxinterp.facts.encoding import EncodedQueries
from jaxinterp.metrics.batching import Batch, by_length, of_one_length, query_batches, readout_of
from jaxinterp.metrics.recall import ability
from jaxinterp.models.mesh import beside
from jaxinterp.models.model import Model


class Examples(abc.ABC):
    """N answers. What is measured of them, and how they are compared, knows nothing but this."""

    shape: tuple[int, int]  # (L, F)
    # Two facts are alike in relation, subject or answer where these are equal; see `jaxinterp.facts.controls`
    fact_N: Int[np.ndarray, " N"]
    relation_N: Int[np.ndarray, " N"]
    subject_N: Int[np.ndarray, " N"]
    answer_N: Int[np.ndarray, " N"]
    answer_length_N: Int[np.ndarray, " N"]  # rows of each answer

    def __len__(self) -> int:
        return len(self.fact_N)

    @property
    def n_neurons(self) -> int:
        """L·F."""
        return self.shape[0] * self.shape[1]

    @abc.abstractmethod
    def __getitem__(self, index: Int[np.ndarray, " n"]) -> "Examples":
        """Some of them."""

    @abc.abstractmethod
    def answer_parts(self) -> Float[np.ndarray, "N V"]:
        """1 for what each answer is made of, such as tokens: answers without a common part are different."""

    @abc.abstractmethod
    def batches(self, rows: int, seed: int) -> Iterator[tuple[Batch, Int[np.ndarray, " n"]]]:
        """Every answer once, in batches of `rows` rows that have a field `answers`, with the answers' numbers."""

    @abc.abstractmethod
    def readout(self, batch: Batch) -> Readout:
        """The readout at a batch's rows, made of arrays."""

    @abc.abstractmethod
    def ability(self, batch: Batch) -> Mapping[str, Array]:
        """Columns of what the model knows, such as "correct"."""


@dataclasses.dataclass(frozen=True)
class LanguageExamples(Examples):
    """A language model and what it is asked."""

    model: Model
    queries: EncodedQueries

    @property
    def shape(self) -> tuple[int, int]:
        return self.model.config.n_layers, self.model.config.d_mlp

    fact_N = property(lambda self: self.queries.fact_N)
    relation_N = property(lambda self: self.queries.relation_N)
    subject_N = property(lambda self: self.queries.subject_N)
    answer_N = property(lambda self: self.queries.answer_N)
    answer_length_N = property(lambda self: self.queries.answer_length_N)

    def __getitem__(self, index: Int[np.ndarray, " n"]) -> "LanguageExamples":
        return LanguageExamples(self.model, self.queries[index])

    def answer_parts(self) -> Float[np.ndarray, "N V"]:
        return self.queries.answer_parts()

    def batches(self, rows: int, seed: int) -> Iterator[tuple[QueryBatch, Int[np.ndarray, " n"]]]:
        config = self.model.config
        # Padding costs as much as text where every edit runs whole sequences.
        divided = by_length if config.attention == "bidirectional" else of_one_length
        return query_batches(self.queries, rows, seed, divided(config, self.queries))

    def readout(self, batch: QueryBatch) -> Readout:
        return readout_of(self.model, batch)

    def ability(self, batch: QueryBatch) -> Mapping[str, Array]:
        return ability(self.model, beside(self.model.params, batch))


class RowBatch(NamedTuple):
    """R examples of one row each, some of them padding."""

    index_R: Int[np.ndarray, " R"]
    answers: Answers


@dataclasses.dataclass(frozen=True)
class ReadoutExamples(Examples):
    """Examples of any readout, an answer of one row each.

    For a classifier an example is an image: its answer is the class, its subject the image, and all images share one
    relation, "which class is this?". A number of a subject and an equal one of an answer are one thing, as France is in
    "Paris is in France" and "the capital of France is Paris": what asks for a pair the other way round is no control.
    """

    # The readout of some examples, by number, a row for each; None for examples that only give `answers`
    read: Callable[[Int[np.ndarray, " R"]], Readout] | None
    shape: tuple[int, int]
    answer_N: Int[np.ndarray, " N"]
    relation_N: Int[np.ndarray, " N"] | None = None  # None: the same for all
    subject_N: Int[np.ndarray, " N"] | None = None  # None: one of its own for each
    correct_N: Float[np.ndarray, " N"] | None = None  # 1 where the model is right, if that is known
    number_N: Int[np.ndarray, " N"] | None = None  # of each example, as `read` knows it; None: 0 … N − 1

    def __post_init__(self) -> None:
        n = len(self.answer_N)
        defaults = {"relation_N": np.zeros(n, int), "subject_N": np.arange(n), "number_N": np.arange(n)}
        for name, default in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        for name in (*defaults, "correct_N"):
            given = getattr(self, name)
            if given is not None and len(given) != n:
                raise UserError(f"{name} has {len(given)} values for {n} answers; give one for each")

    @property
    def fact_N(self) -> Int[np.ndarray, " N"]:
        return self.number_N

    @property
    def answer_length_N(self) -> Int[np.ndarray, " N"]:
        return np.ones(len(self.number_N), int)

    def __getitem__(self, index: Int[np.ndarray, " n"]) -> "ReadoutExamples":
        names = ("answer_N", "relation_N", "subject_N", "correct_N", "number_N")
        parts = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return dataclasses.replace(self, **{name: np.asarray(values)[index] for name, values in parts.items()})

    def answer_parts(self) -> Float[np.ndarray, "N V"]:
        return (self.answer_N[:, None] == np.unique(self.answer_N)[None]).astype(np.float32)

    def answers(self, rng: np.random.Generator, n_controls: int = 1) -> Answers:
        """All of them as the answers of a batch, with controls drawn among themselves; for an objective.

        Args:
          rng: consumed.
          n_controls: of each of `CONTROL_KINDS`; an answer has fewer if there are no more.
        """
        control_XN = draw_controls(self, CONTROL_KINDS, n_controls, rng).reshape(-1, len(self))
        there_XN, own_N = control_XN >= 0, np.arange(len(self))
        control_XR = np.where(there_XN, control_XN, own_N).astype(np.int32)
        answers = whole_rows(len(self))
        there = there_XN.astype(np.float32)
        return answers._replace(control_XR=control_XR, control_weight_XN=there, fact_N=self.number_N.astype(np.int32))

    def batches(self, rows: int, seed: int) -> Iterator[tuple[RowBatch, Int[np.ndarray, " n"]]]:
        order = np.random.default_rng(seed).permutation(len(self))
        for start in range(0, len(order), rows):
            index = order[start : start + rows]
            padded = np.concatenate([index, np.full(rows - len(index), index[-1])])
            yield RowBatch(padded, whole_rows(len(index), rows)), index

    def readout(self, batch: RowBatch) -> Readout:
        if self.read is None:
            raise UserError("these examples cannot be read; give them the function `read`")
        readout = self.read(self.number_N[batch.index_R])
        n_layers, n_neurons = self.shape
        if readout.shape != (n_layers, len(batch.index_R), n_neurons):
            raise UserError(
                f"the readout of {len(batch.index_R)} examples has the shape {readout.shape}; with shape={self.shape} "
                f"(layers, neurons) it must be {(n_layers, len(batch.index_R), n_neurons)}"
            )
        return readout

    def ability(self, batch: RowBatch) -> Mapping[str, Array]:
        return {} if self.correct_N is None else {"correct": jnp.asarray(self.correct_N)[batch.index_R]}
