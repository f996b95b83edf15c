"""Groups of columns: what is measured for every answer of a batch, by name.

A group is one decorated pure function of `Measured`; a metric that needs one of its columns has it computed.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxinterp.attribution.edits import suppress
from jaxinterp.attribution.integrated_gradients import Attribution
from jaxinterp.attribution.quadrature import Integral
from jaxinterp.attribution.readout import Readout, answer_log_probability
from jaxinterp.attribution.selection import answer_scores, top_k
from jaxinterp.base.errors import UserError, known_names
from jaxinterp.base.registry import Registry
from jaxinterp.facts.controls import KINDS
from jaxinterp.facts.encoding import EncodedQueries, QueryBatch
from jaxinterp.metrics.registry import METRICS, Cost, Metric, base_metrics
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.transformer import Edit


class Rowed:
    """What is common to whatever looks at a batch: N answers, read at R rows of a readout."""

    batch: QueryBatch
    readout: Readout

    def log_probability(self, probability_R: Float[Array, " R"]) -> Float[Array, " N"]:
        """Of whole answers, in nats, from that of their tokens."""
        return answer_log_probability(probability_R, self.batch.answer_R, self.batch.weight_R, self.n_answers)

    def probability(self, edit: Edit) -> Float[Array, " N"]:
        """Of whole answers, under an edit."""
        return jnp.exp(self.log_probability(self.readout(*edit)))

    def untouched(self) -> Float[Array, " N"]:
        """P of whole answers."""
        return jnp.exp(self.log_probability(self.readout.untouched()))

    def answer_mean(self, value_R: Float[Array, " R"]) -> Float[Array, " N"]:
        """Mean over an answer's tokens."""
        # Padding belongs to the last answer, and may have no value: 0 · NaN is NaN.
        known_R = jnp.where(jnp.asarray(self.batch.weight_R) > 0, value_R, 0)
        total = jax.ops.segment_sum(known_R, jnp.asarray(self.batch.answer_R), self.n_answers)
        return total / jnp.maximum(self.length_N, 1)

    @property
    def n_answers(self) -> int:
        """N, with padding."""
        return self.batch.answer_weight_N.shape[0]

    @property
    def length_N(self) -> Float[Array, " N"]:
        """Tokens of each answer."""
        return jax.ops.segment_sum(jnp.asarray(self.batch.weight_R), jnp.asarray(self.batch.answer_R), self.n_answers)

    @property
    def first_R(self) -> Float[Array, " R"]:
        """1 for the row of an answer's first token."""
        answer_R = jnp.asarray(self.batch.answer_R)
        starts = jnp.concatenate([jnp.ones(1, bool), answer_R[1:] != answer_R[:-1]])
        return starts * jnp.asarray(self.batch.weight_R)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["batch", "readout", "attribution", "scores", "key_N"],
    meta_fields=["k"],
)
@dataclasses.dataclass(frozen=True)
class Measured(Rowed):
    """What the groups of columns of one batch have in common."""

    batch: QueryBatch
    readout: Readout
    attribution: Attribution
    scores: Mapping[str, Float[Array, "L R F"]]  # of each row, by the other selectors that the groups name
    key_N: Key[Array, " N"]  # of each answer, whatever batch it is in; a group folds a number of its own in
    k: int

    def of_answers(self, scores_LRF: Float[Array, "L R F"]) -> Float[Array, "L R F"]:
        """Scores summed over the rows of each answer: by which the neurons of an answer are chosen."""
        batch = self.batch
        return answer_scores(scores_LRF, jnp.asarray(batch.answer_R), jnp.asarray(batch.weight_R), self.n_answers)

    @functools.cached_property
    def scores_LRF(self) -> Float[Array, "L R F"]:
        """The attribution of each row's answer."""
        return self.of_answers(self.attribution.scores_LRF)

    @functools.cached_property
    def mask_LRF(self) -> Float[Array, "L R F"]:
        """The k knowledge neurons of each row's answer."""
        return top_k(self.scores_LRF, self.k)

    @property
    def first_row_R(self) -> Int[Array, " R"]:
        """The row of the first token of each row's answer."""
        answer_R = jnp.asarray(self.batch.answer_R)
        return jnp.argmax(answer_R[:, None] == answer_R[None], axis=1)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["batch", "readout", "chosen", "control", "weight_XN", "donor_KLRF", "donor_target_KR", "mean_LF"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Compared(Rowed):
    """What groups of columns know that look at other facts' neurons as well. The controls of an answer are drawn from
    the whole set, n of each of `KINDS`, X in all, kind by kind; neurons are numbers layer · F + neuron.
    """

    batch: QueryBatch
    readout: Readout
    chosen: Mapping[str, Int[Array, "N k"]]  # an answer's neurons, by selector
    control: Mapping[str, Int[Array, "X N k"]]  # and those of its controls
    weight_XN: Float[Array, "X N"]  # 1 where an answer has that control
    # Activations at the rows of the first control of each of `CONTROL_KINDS`, and what is read there; None if no group
    # asks for them
    donor_KLRF: Float[Array, "K L R F"] | None
    donor_target_KR: Int[Array, "K R"] | None
    mean_LF: Float[Array, "L F"] | None  # activations, a mean over all rows that are measured

    def mask(self, neurons_NK: Int[Array, "N k"]) -> Float[Array, "L R F"]:
        """1 for the neurons of each row's answer."""
        n_layers, _, n_neurons = self.readout.shape
        n = neurons_NK.shape[0]
        mask_NU = jnp.zeros((n, n_layers * n_neurons)).at[jnp.arange(n)[:, None], neurons_NK].set(1.0)
        return mask_NU.reshape(n, n_layers, n_neurons)[jnp.asarray(self.batch.answer_R)].transpose(1, 0, 2)

    def by_kind(self, values_XN: Float[Array, "X N"]) -> dict[str, Float[Array, " N"]]:
        """Means over an answer's controls of each kind; NaN where it has none."""
        values, weight = (x.reshape(len(KINDS), -1, x.shape[-1]) for x in (values_XN, self.weight_XN))
        means_KN = (values * weight).sum(1) / weight.sum(1)
        return dict(zip(KINDS, means_KN, strict=True))

    def has_kind(self, kind: str) -> Float[Array, " N"]:
        """1 where an answer has a control of the kind."""
        weight = self.weight_XN.reshape(len(KINDS), -1, self.weight_XN.shape[-1])
        return weight[KINDS.index(kind), 0]

    def controlled_XN(self, selector: str) -> Float[Array, "X N"]:
        """P of every answer without the neurons of each of its controls."""
        return jax.lax.map(lambda neurons: self.probability(suppress(self.mask(neurons))), self.control[selector])


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
ComparedColumns = Callable[[Compared], Mapping[str, Float[Array, " N"]]]
SetColumns = Callable[[MeasuredSet], Mapping[str, Float[np.ndarray, " N"]]]


COSTS: tuple[Cost, ...] = get_args(Cost)  # from the cheapest


Looks = Literal["batch", "compared", "set"]  # at a `Measured`, at a `Compared`, at a `MeasuredSet`


@dataclasses.dataclass(frozen=True)
class Group:
    """Columns that are computed together, of a batch under jit or of a whole set."""

    name: str
    gives: tuple[str, ...]
    cost: Cost
    columns: Columns | ComparedColumns | SetColumns
    looks: Looks
    selectors: tuple[str, ...]  # attribution methods besides the attribution itself, whose scores or choice it needs
    donors: bool  # whether it needs the activations of controls
    like: Like

    @property
    def of_set(self) -> bool:
        """Whether it looks at a whole set."""
        return self.looks == "set"


_GROUPS: Registry[Group] = Registry("group of columns", folder="jaxinterp.metrics.families")


def column_group(
    name: str, *, gives: tuple[str, ...], cost: Cost, selectors: tuple[str, ...] = (), like: Like | None = None
) -> Callable[[Columns], Columns]:
    """Registers a group: a pure function of `Measured` that gives these columns, NaN where there is no value.

    Args:
      name: of the group.
      gives: names of the columns.
      cost: base and ablations are measured if no metric is named; passes, attributions and training if one needs them.
      selectors: names of attribution methods whose scores it looks at.
      like: for `jaxinterp.metrics.check.check_metric`, a value of each column in a good model and in a bad one.
    Raises:
      ValueError: if an argument cannot be, or the name or a column is taken.
    """
    return _registered(name, gives, cost, like, "batch", selectors)


def compared_group(
    name: str,
    *,
    gives: tuple[str, ...],
    cost: Cost,
    selectors: tuple[str, ...] = (),
    donors: bool = False,
    like: Like | None = None,
) -> Callable[[ComparedColumns], ComparedColumns]:
    """The same for a function of `Compared`: once all answers' neurons are known, each is compared with others'."""
    return _registered(name, gives, cost, like, "compared", selectors, donors)


def set_group(
    name: str, *, gives: tuple[str, ...], cost: Cost, like: Like | None = None
) -> Callable[[SetColumns], SetColumns]:
    """The same for a function of `MeasuredSet`, which is not traced."""
    return _registered(name, gives, cost, like, "set")


def _registered(
    name: str,
    gives: tuple[str, ...],
    cost: Cost,
    like: Like | None,
    looks: Looks,
    selectors: tuple[str, ...] = (),
    donors: bool = False,
) -> Callable:
    if isinstance(gives, str) or not gives:
        raise ValueError(f"group {name!r}: gives must be a tuple of names, got {gives!r}")
    if cost not in COSTS:
        raise ValueError(f"group {name!r}: cost must be one of {', '.join(COSTS)}, got {cost!r}")
    if other := set(like or {}) - set(gives):
        raise ValueError(f"group {name!r}: like has {sorted(other)[0]!r}, which it does not give")

    def register(columns: Callable) -> Callable:
        for other in _GROUPS.registered.values():
            if taken := set(other.gives) & set(gives):
                raise ValueError(f"column {sorted(taken)[0]!r} is given by {other.name!r} already")
        group = Group(name, gives, cost, columns, looks, selectors, donors, dict(like or {}))
        _GROUPS.add(name, group, columns.__module__)
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
    needs = [need for name in base_metrics(metric.name) for need in METRICS[name].needs]
    return max((given.get(need, "base") for need in needs), key=COSTS.index)


@functools.lru_cache(maxsize=16)
def columns_step(groups: tuple[str, ...]) -> Callable[[Measured | Compared], dict[str, Float[Array, " N"]]]:
    """All columns of the groups, which look at the same, in one program."""
    functions = [_GROUPS[name].columns for name in groups]
    return jax.jit(lambda seen: {name: v for function in functions for name, v in function(seen).items()})
