"""Groups of columns: what is measured for every answer of a batch, by name.

A group is one decorated pure function of `Measured`; a metric that needs one of its columns has it computed.
"""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, get_args

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxinterp.attribution.adaptive import per_layer_attribution
from jaxinterp.attribution.answers import Answers
from jaxinterp.attribution.edits import NeuronEdit, suppress
from jaxinterp.attribution.integrated_gradients import Attribution
from jaxinterp.attribution.quadrature import Integral
from jaxinterp.attribution.readout import Readout
from jaxinterp.attribution.selection import top_k
from jaxinterp.base.errors import UserError, known_names
from jaxinterp.base.registry import Registry
from jaxinterp.facts.controls import KINDS
from jaxinterp.metrics.batching import Batch, columns_of
from jaxinterp.metrics.examples import Examples, LanguageExamples
from jaxinterp.metrics.registry import METRICS, Cost, Metric, base_metrics

ATTRIBUTION = "attribution"  # the selector that all metrics look at, if they name no other


class Rowed:
    """What is common to whatever looks at a batch: N answers, read at R rows of a readout."""

    answers: Answers
    readout: Readout

    def log_probability(self, probability_R: Float[Array, " R"]) -> Float[Array, " N"]:
        """log P of whole answers, in nats, from that of their rows."""
        return self.answers.log_probability(probability_R)

    def probability(self, edit: NeuronEdit) -> Float[Array, " N"]:
        """P of whole answers, under an edit."""
        return self.answers.probability(self.readout(*edit))

    def untouched(self) -> Float[Array, " N"]:
        """P of whole answers."""
        return self.answers.probability(self.readout.untouched())


@flax.struct.dataclass
class Measured(Rowed):
    """What the groups of columns of one batch have in common."""

    answers: Answers
    readout: Readout
    attribution: Attribution
    scores: Mapping[str, Float[Array, "L R F"]]  # of each row, by the other selectors that the groups name
    key_N: Key[Array, " N"]  # of each answer, whatever batch it is in; a group folds a number of its own in
    k: int = flax.struct.field(pytree_node=False)

    @functools.cached_property
    def scores_LRF(self) -> Float[Array, "L R F"]:
        """The attribution of each row's answer."""
        return self.answers.scores(self.attribution.scores_LRF)

    @functools.cached_property
    def mask_LRF(self) -> Float[Array, "L R F"]:
        """The k knowledge neurons of each row's answer."""
        return top_k(self.scores_LRF, self.k)


@flax.struct.dataclass
class Compared(Rowed):
    """What groups of columns know that look at other facts' neurons as well. The controls of an answer are drawn from
    the whole set, n of each of `KINDS`, X in all, kind by kind; neurons are numbers layer · F + neuron.
    """

    answers: Answers
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
        return mask_NU.reshape(n, n_layers, n_neurons)[jnp.asarray(self.answers.answer_R)].transpose(1, 0, 2)

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
    """What groups of columns know that look at a whole set of answers at once."""

    examples: Examples  # N of them
    pool: Examples  # all of the set, of which those are a sample: other prompts of the same facts
    k: int
    integral: Integral
    rows: int  # at once
    seed: int

    def neurons(self, batch: Batch, examples: Examples | None = None) -> tuple[Readout, Float[Array, "L R F"]]:
        """A batch's readout, and 1 for the k knowledge neurons of each row's answer."""
        readout = (examples or self.examples).readout(batch)
        scores_LRF = per_layer_attribution(readout, self.integral).scores_LRF
        return readout, top_k(batch.answers.scores(scores_LRF), self.k)

    def each_batch(self, step: Callable[[Batch, np.ndarray], Mapping[str, Array]]) -> dict[str, np.ndarray]:
        """The columns that `step` (batch, numbers of its answers) returns, of all answers."""
        batches = self.examples.batches(self.rows, self.seed)
        return columns_of(batches, len(self.examples), lambda _, batch, taken: step(batch, taken))


# What a column is like in a model whose facts sit in neurons of their own, and in one where nothing does.
Like = Mapping[str, tuple[float, float]]
Gives = tuple[str, ...] | Like
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
    text: bool  # whether it needs a language model: its text, its tokens, or neurons that can be set to values
    selectors: tuple[str, ...]  # attribution methods besides the attribution itself, whose scores or choice it needs
    donors: bool  # whether it needs the activations of controls
    like: Like
    package: tuple[str, str] | None = None  # a module that it imports, and the extra that installs it

    @property
    def of_set(self) -> bool:
        """Whether it looks at a whole set."""
        return self.looks == "set"


GROUPS: Registry[Group] = Registry("group of columns", folder="jaxinterp.metrics.families")


def column_group(
    name: str,
    *,
    gives: Gives,
    cost: Cost,
    text: bool = False,
    selectors: tuple[str, ...] = (),
) -> Callable[[Columns], Columns]:
    """Registers a group: a pure function of `Measured` that gives these columns, NaN where there is no value.

    Args:
      name: of the group.
      gives: names of the columns; for `jaxinterp.metrics.check.check_metric` each with a value that it has in a good
        model and one in a bad model.
      cost: base and ablations are measured if no metric is named; passes, attributions and training if one needs them.
      text: whether it needs a language model; other examples do without it.
      selectors: names of attribution methods whose scores it looks at.
    Raises:
      ValueError: if an argument cannot be, or the name or a column is taken.
    """
    return _registered(name, gives, cost, "batch", text, selectors)


def compared_group(
    name: str,
    *,
    gives: Gives,
    cost: Cost,
    text: bool = False,
    selectors: tuple[str, ...] = (),
    donors: bool = False,
) -> Callable[[ComparedColumns], ComparedColumns]:
    """The same for a function of `Compared`: once all answers' neurons are known, each is compared with others'."""
    return _registered(name, gives, cost, "compared", text, selectors, donors)


def set_group(
    name: str, *, gives: Gives, cost: Cost, text: bool = False, package: tuple[str, str] | None = None
) -> Callable[[SetColumns], SetColumns]:
    """The same for a function of `MeasuredSet`, which is not traced; `package` is as in `Group`."""
    return _registered(name, gives, cost, "set", text, package=package)


def _registered(
    name: str,
    gives: Gives,
    cost: Cost,
    looks: Looks,
    text: bool,
    selectors: tuple[str, ...] = (),
    donors: bool = False,
    package: tuple[str, str] | None = None,
) -> Callable:
    if isinstance(gives, str) or not gives:
        raise ValueError(f"group {name!r}: gives must be a tuple of names, got {gives!r}")
    if cost not in COSTS:
        raise ValueError(f"group {name!r}: cost must be one of {', '.join(COSTS)}, got {cost!r}")

    like = dict(gives) if isinstance(gives, Mapping) else {}

    def register(columns: Callable) -> Callable:
        for other in GROUPS.registered.values():
            if taken := set(other.gives) & set(gives):
                raise ValueError(f"column {sorted(taken)[0]!r} is given by {other.name!r} already")
        group = Group(name, tuple(gives), cost, columns, looks, text, selectors, donors, like, package)
        GROUPS.add(name, group, columns.__module__)
        return columns

    return register


def check_packages(groups: Iterable[str]) -> None:
    """Raises UserError if a group imports a package of an extra that is not installed."""
    for name in groups:
        package = GROUPS[name].package
        if package is not None and importlib.util.find_spec(package[0]) is None:
            raise UserError(f"the columns {name!r} need {package[0]}: pip install jaxinterp[{package[1]}]")


def check_text(group: str, examples: Examples, metrics: Iterable[str] = ()) -> None:
    """Raises UserError if a group needs a language model's text and these examples have none; it names one of the
    metrics that need the group, if any is given.
    """
    found = GROUPS[group]
    if found.text and not isinstance(examples, LanguageExamples):
        given = set(found.gives)
        named = [name for name in metrics if any(given & {*METRICS[base].needs} for base in base_metrics(name))]
        what = f"metric {named[0]!r} needs" if named else f"the columns {group!r} need"
        raise UserError(f"{what} a language model's text, which these examples do not have")


def groups_giving(columns: Iterable[str]) -> tuple[str, ...]:
    """The groups that give the columns.

    Raises:
      UserError: if nothing gives one of them.
    """
    missing = set(columns)
    found = tuple(name for name in GROUPS.names() if set(GROUPS[name].gives) & missing)
    for name in found:
        missing -= set(GROUPS[name].gives)
    if missing:
        known = [column for name in GROUPS.names() for column in GROUPS[name].gives]
        first = sorted(missing)[0]
        raise UserError(f"no group of columns gives {first!r}; {known_names(first, known)}")
    return found


def metric_cost(metric: Metric) -> Cost:
    """The cost of the dearest group that the metric needs; base for what every measurement has."""
    given = {column: GROUPS[name].cost for name in GROUPS.names() for column in GROUPS[name].gives}
    needs = [need for name in base_metrics(metric.name) for need in METRICS[name].needs]
    return max((given.get(need, "base") for need in needs), key=COSTS.index)


@functools.partial(jax.jit, static_argnums=0)
def columns_of_groups(groups: tuple[str, ...], seen: Measured | Compared) -> dict[str, Float[Array, " N"]]:
    """All columns of the groups, which look at the same, in one program."""
    return {name: values for group in groups for name, values in GROUPS[group].columns(seen).items()}
