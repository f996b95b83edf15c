"""Groups of columns: what is measured for every answer of a batch, by name.

A group is one decorated pure function of `Measured`; a metric that needs one of its columns has it computed.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxinterp.attribution import Attribution
from jaxinterp.errors import UserError, known_names
from jaxinterp.facts.encoding import EncodedQueries, QueryBatch
from jaxinterp.metrics.registry import Cost, Metric
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.transformer import Edit
from jaxinterp.quadrature import Integral
from jaxinterp.readout import Readout, answer_log_probability
from jaxinterp.registry import Registry
from jaxinterp.suppression import control_mask, suppress


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["batch", "readout", "attribution", "mask_LRF", "relation_N", "mean_LF", "key"],
    meta_fields=["k"],
)
@dataclasses.dataclass(frozen=True)
class Measured:
    """What the groups of columns of one batch have in common: N answers, read at R rows."""

    batch: QueryBatch
    readout: Readout
    attribution: Attribution
    mask_LRF: Float[Array, "L R F"]  # the k knowledge neurons of each row
    relation_N: Int[Array, " N"]  # of each answer; −1 for padding
    mean_LF: Float[Array, "L F"]  # activations, a mean over all rows that are measured
    key: PRNGKeyArray  # of the batch; a group folds a number of its own in
    k: int

    def log_probability(self, probability_R: Float[Array, " R"]) -> Float[Array, " N"]:
        """Of whole answers, in nats, from that of their tokens."""
        return answer_log_probability(probability_R, self.batch.answer_R, self.batch.weight_R, self.n_answers)

    def probability(self, edit: Edit) -> Float[Array, " N"]:
        """Of whole answers, under an edit."""
        return jnp.exp(self.log_probability(self.readout(*edit)))

    def control(self, mask_LRF: Float[Array, "L R F"]) -> Float[Array, " N"]:
        """P without a control's neurons, a mean over an answer's controls; NaN if it has none."""
        one = lambda control_R: self.probability(suppress(control_mask(mask_LRF, control_R)))  # noqa: E731
        weight_XN = jnp.asarray(self.batch.control_weight_XN)
        return (jax.lax.map(one, jnp.asarray(self.batch.control_XR)) * weight_XN).sum(0) / weight_XN.sum(0)

    def answer_mean(self, value_R: Float[Array, " R"]) -> Float[Array, " N"]:
        """Mean over an answer's tokens."""
        total = jax.ops.segment_sum(value_R * self.batch.weight_R, self.batch.answer_R, self.n_answers)
        return total / jnp.maximum(jax.ops.segment_sum(self.batch.weight_R, self.batch.answer_R, self.n_answers), 1)

    @property
    def n_answers(self) -> int:
        """N, with padding."""
        return self.batch.answer_weight_N.shape[0]

    @property
    def first_R(self) -> Float[Array, " R"]:
        """1 for the row of an answer's first token."""
        answer_R = jnp.asarray(self.batch.answer_R)
        starts = jnp.concatenate([jnp.ones(1, bool), answer_R[1:] != answer_R[:-1]])
        return starts * jnp.asarray(self.batch.weight_R)


@dataclasses.dataclass(frozen=True)
class MeasuredSet:
    """What groups of columns know that look at a whole set of queries at once."""

    config: ModelConfig
    params: Mapping
    queries: EncodedQueries  # N of them
    pool: EncodedQueries  # all queries of the set, of which those are a sample: other prompts of the same facts
    k: int
    integral: Integral
    rows: int  # answer tokens at once
    seed: int


# What a column is like in a model whose facts sit in neurons of their own, and in one where nothing does.
Like = Mapping[str, tuple[float, float]]
Columns = Callable[[Measured], Mapping[str, Float[Array, " N"]]]
SetColumns = Callable[[MeasuredSet], Mapping[str, Float[np.ndarray, " N"]]]


COSTS: tuple[Cost, ...] = get_args(Cost)  # from the cheapest


@dataclasses.dataclass(frozen=True)
class Group:
    """Columns that are computed together, of a batch under jit or of a whole set."""

    name: str
    gives: tuple[str, ...]
    cost: Cost
    columns: Columns | SetColumns
    of_set: bool
    like: Like


_GROUPS: Registry[Group] = Registry("group of columns")


def column_group(
    name: str, *, gives: tuple[str, ...], cost: Cost, like: Like | None = None
) -> Callable[[Columns], Columns]:
    """Registers a group: a pure function of `Measured` that gives these columns, NaN where there is no value.

    Args:
      name: of the group.
      gives: names of the columns.
      cost: base and ablations are measured if no metric is named; passes, attributions and training if one needs them.
      like: for `jaxinterp.metrics.check.check_metric`, a value of each column in a good model and in a bad one.
    Raises:
      ValueError: if an argument cannot be, or the name or a column is taken.
    """
    return _registered(name, gives, cost, like, of_set=False)


def set_group(
    name: str, *, gives: tuple[str, ...], cost: Cost, like: Like | None = None
) -> Callable[[SetColumns], SetColumns]:
    """The same for a function of `MeasuredSet`, which is not traced."""
    return _registered(name, gives, cost, like, of_set=True)


def _registered(name: str, gives: tuple[str, ...], cost: Cost, like: Like | None, *, of_set: bool) -> Callable:
    if isinstance(gives, str) or not gives:
        raise ValueError(f"group {name!r}: gives must be a tuple of names, got {gives!r}")
    if cost not in COSTS:
        raise ValueError(f"group {name!r}: cost must be one of {', '.join(COSTS)}, got {cost!r}")
    if other := set(like or {}) - set(gives):
        raise ValueError(f"group {name!r}: like has {sorted(other)[0]!r}, which it does not give")

    def register(columns: Columns | SetColumns) -> Columns | SetColumns:
        for other in _GROUPS.names():
            if taken := set(_GROUPS[other].gives) & set(gives):
                raise ValueError(f"column {sorted(taken)[0]!r} is given by {other!r} already")
        _GROUPS.add(name, Group(name, gives, cost, columns, of_set, dict(like or {})))
        return columns

    return register


def get_group(name: str) -> Group:
    """The group of that name; UserError if it is unknown."""
    return _GROUPS[name]


def group_names() -> tuple[str, ...]:
    """All names, in the order of registration."""
    return _GROUPS.names()


def groups_giving(columns: Iterable[str]) -> tuple[str, ...]:
    """The groups that give the columns.

    Raises:
      UserError: if nothing gives one of them.
    """
    missing = set(columns)
    found = tuple(name for name in _GROUPS.names() if set(_GROUPS[name].gives) & missing)
    for name in found:
        missing -= set(_GROUPS[name].gives)
    if missing:
        known = [column for name in _GROUPS.names() for column in _GROUPS[name].gives]
        first = sorted(missing)[0]
        raise UserError(f"no group of columns gives {first!r}; {known_names(first, known)}")
    return found


def metric_cost(metric: Metric) -> Cost:
    """The cost of the dearest group that the metric needs; base for what every measurement has."""
    given = {column: _GROUPS[name].cost for name in _GROUPS.names() for column in _GROUPS[name].gives}
    return max((given.get(need, "base") for need in metric.needs), key=COSTS.index)


@functools.lru_cache(maxsize=16)
def columns_step(groups: tuple[str, ...]) -> Callable[[Measured], dict[str, Float[Array, " N"]]]:
    """All columns of the groups, in one program."""
    functions = [_GROUPS[name].columns for name in groups]
    return jax.jit(lambda measured: {name: v for function in functions for name, v in function(measured).items()})
