"""The measurement of a model on sets of facts."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxinterp.attribution.quadrature import integral
from jaxinterp.attribution.selection import check_k
from jaxinterp.base.errors import UserError
from jaxinterp.facts.encoding import EncodedQueries, encode, tokens_read
from jaxinterp.facts.facts import FactSet
from jaxinterp.facts.leakage import clean
from jaxinterp.facts.splits import SETS, Split
from jaxinterp.metrics.answers import ABILITY, MeasuredAnswers, measured_answers
from jaxinterp.metrics.columns import GROUPS, MeasuredSet, check_packages, check_text, groups_giving
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.estimates import Estimates, estimate
from jaxinterp.metrics.examples import Examples, LanguageExamples
from jaxinterp.metrics.families.suppression import CLEAN
from jaxinterp.metrics.recall import measured_ability, recalled
from jaxinterp.metrics.registry import METRICS, NEURONS, base_metrics, is_measured
from jaxinterp.metrics.sampling import sample
from jaxinterp.models.language_model import LanguageModel

Progress = Callable[[str, int, int], None]


class QueryColumns(NamedTuple):
    """What was measured of the N queries of a set, and what is needed to estimate metrics from it."""

    columns: Mapping[str, Float[np.ndarray, " N"]]  # NaN where a query lacks one
    fact_N: Int[np.ndarray, " N"]
    relation_N: Sequence[str]  # names


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Metrics of a model."""

    ability: Mapping[str, Estimates]  # recall and, of a causal model, cross-entropy; on the training sentences, if any
    sets: Mapping[str, Mapping[str, Estimates]]
    # How often each neuron was selected in the first set, by relation, in answers.
    selected: Float[np.ndarray, "relations L F"]
    columns: Mapping[str, QueryColumns] = dataclasses.field(default_factory=dict)  # of each set


def measure(
    model: LanguageModel,
    facts: FactSet,
    split: Split,
    config: MeasureConfig,
    *,
    progress: Progress = lambda *_: None,
) -> Measurement:
    """Measures a model on the four sets of the split that it was trained with; see `measure_sets`.

    Raises:
      UserError: also if a sentence cannot be encoded.
    """
    sets = {name: encode(facts, getattr(split, name), model.tokenizer, n_ctx=model.config.n_ctx) for name in SETS}
    training = encode(facts, split.training, model.tokenizer, n_ctx=model.config.n_ctx)
    unseen = {name: clean(facts, split, name) for name in SETS}
    return measure_sets(model, facts, sets, training, config, clean=unseen, progress=progress)


class MeasuredFacts(NamedTuple):
    """What `measure_facts` gives."""

    measurement: Measurement
    left_out: Mapping[str, int]  # facts, prompts and queries, by reason
    read: Mapping[str, object]  # the tokens of one query; see `jaxinterp.facts.encoding.tokens_read`


def measure_facts(
    model: LanguageModel, facts: FactSet, config: MeasureConfig, *, progress: Progress = lambda *_: None
) -> MeasuredFacts:
    """Measures any model on any facts: on the sets "facts" and "known_facts", those that it answers correctly.

    What it knows is found out on `config.ability_queries` queries; each set is a sample of `config.queries`. Causal
    models are asked only with prompts that have the answer last.

    Raises:
      UserError: also if no query can be encoded.
    """
    if model.config.attention == "causal":
        facts = facts.answer_last()
    dropped: dict[str, int] = {}
    queries = encode(facts, facts.queries(), model.tokenizer, n_ctx=model.config.n_ctx, dropped=dropped)
    left_out = {**facts.dropped, **dropped}
    tried = queries[sample(queries, config.ability_queries, config.seed)]
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        progress("what it knows", done, len(tried))

    correct = recalled(model.model, tried, rows=config.rows, progress=advance)["correct"] > 0
    sets = {"facts": tried}
    if correct.any():
        sets["known_facts"] = tried[np.flatnonzero(correct)]
    measurement = measure_sets(model, facts, sets, tried, config, progress=progress)
    return MeasuredFacts(measurement, left_out, tokens_read(tried, 0, model.tokenizer))


def measure_sets(
    model: LanguageModel,
    facts: FactSet,
    sets: Mapping[str, EncodedQueries],
    ability: EncodedQueries,
    config: MeasureConfig,
    *,
    clean: Mapping[str, Mapping[str, Bool[np.ndarray, " N"]]] | None = None,
    required: bool = True,
    progress: Progress = lambda *_: None,
) -> Measurement:
    """Measures a model on sets of queries; see `measure_examples`.

    Args:
      model: a language model.
      facts: what the queries index into.
      sets: by name; each is sampled.
      ability: on which recall and cross-entropy are measured.
      config, clean, required, progress: those of `measure_examples`.
    """
    relations = [relation.name for relation in facts.relations]
    examples = {name: LanguageExamples(model.model, queries) for name, queries in sets.items()}
    measurement = measure_examples(examples, relations, config, clean=clean, required=required, progress=progress)
    queries = ability[sample(ability, config.ability_queries, config.seed)]
    columns = MeasuredAnswers(measured_ability(model.model, queries, rows=config.rows), np.zeros(0), None, None)
    asked = LanguageExamples(model.model, queries)
    return dataclasses.replace(measurement, ability=estimates_of((), _of_queries(columns, relations, asked), config))


def measure_examples(
    sets: Mapping[str, Examples],
    relations: Sequence[str],
    config: MeasureConfig,
    *,
    clean: Mapping[str, Mapping[str, Bool[np.ndarray, " N"]]] | None = None,
    required: bool = True,
    progress: Progress = lambda *_: None,
) -> Measurement:
    """Measures whatever has a readout, with per-layer integrated gradients and a fixed k.

    Args:
      sets: examples by name; each set is sampled.
      relations: names of the relations that `Examples.relation_N` numbers.
      config: see `MeasureConfig`.
      clean: by set, for each of its examples whether the objective never saw its "answer" and its "subject"; see
        `jaxinterp.facts.leakage.clean`.
      required: whether a named metric must have a value in some set; else it is left out where the model gives none.
      progress: called with (set, answers done, answers in all).
    Raises:
      UserError: if k does not fit the model, a metric is unknown or was measured in none of the sets, or it needs text
        that there is not.
    """
    measured: dict[str, Mapping[str, Estimates]] = {}
    columns: dict[str, QueryColumns] = {}
    selected = None
    for name, pool in sets.items():
        check_k(config.k, pool.n_neurons)
        index = sample(pool, config.queries, config.seed)
        examples = pool[index]
        answers = _columns(examples, pool, len(relations), config, functools.partial(progress, name))
        if clean and "suppressed" in answers.columns:
            for part, is_clean in clean[name].items():
                answers.columns[f"suppressed_new_{part}"] = np.where(
                    is_clean[index], answers.columns["suppressed"], np.nan
                )
        columns[name] = _of_queries(answers, relations, examples)
        neurons = (answers.activation_NU, answers.selected_NU)
        measured[name] = estimates_of(wanted(config), columns[name], config, *neurons)
        if selected is None:
            selected = answers.selected
    if required and config.metrics != ("all",):
        for name in wanted(config):
            if not any(name in estimates for estimates in measured.values()):
                raise UserError(f"metric {name!r} was measured on no fact of any set")
    return Measurement({}, measured, selected, columns)


BASE = ("base", "ablations")  # costs of what is measured if no metric is named


def wanted(config: MeasureConfig) -> tuple[str, ...]:
    """The metrics that are named; () is all that the columns allow. "all" stands for every registered one."""
    return METRICS.names() if config.metrics == ("all",) else config.metrics


def check_installed(names: Sequence[str]) -> None:
    """Raises UserError if one of these metrics needs a package that is not installed: before long work, not after."""
    needs = {need for name in names for base in base_metrics(name) for need in METRICS[base].needs}
    given = {column for name in GROUPS.names() for column in GROUPS[name].gives}
    check_packages(groups_giving(needs & given))


def _groups(config: MeasureConfig, examples: Examples) -> tuple[str, ...]:
    """The groups of columns that the metrics need; without names, those that the examples have."""
    named = [METRICS[base] for name in wanted(config) for base in base_metrics(name)]
    if not named:
        groups = tuple(name for name in GROUPS.names() if GROUPS[name].cost in BASE)
    else:
        needs = {need for metric in named for need in metric.needs} - {*ABILITY, *NEURONS}
        clean = {f"suppressed_{name}" for name in CLEAN}
        groups = groups_giving((needs - clean) | ({"suppressed"} if needs & clean else set()))
    if not config.ablation_queries:
        groups = tuple(name for name in groups if GROUPS[name].cost != "ablations")
    if not isinstance(examples, LanguageExamples) and config.metrics in ((), ("all",)):
        groups = tuple(name for name in groups if not GROUPS[name].text)
    check_packages(groups)
    for name in groups:
        check_text(name, examples, wanted(config))
    return groups


def estimates_of(
    names: tuple[str, ...],
    queries: QueryColumns,
    config: MeasureConfig,
    activation_NU: Float[np.ndarray, "N U"] | None = None,
    selected_NU: Float[np.ndarray, "N U"] | None = None,
) -> dict[str, Estimates]:
    """The named metrics, or all, as far as the columns allow them; see `jaxinterp.metrics.estimates.estimate`."""
    # A set of one relation has no controls of another: their column is NaN throughout.
    measured = {name for name, values in queries.columns.items() if not np.isnan(values).all()}
    if activation_NU is not None:
        measured |= set(NEURONS)
    return estimate(
        tuple(name for name in names or METRICS.names() if is_measured(name, measured)),
        *queries,
        activation_NU=activation_NU,
        selected_NU=selected_NU,
        replicates=config.replicates,
        seed=config.seed,
    )


def _of_queries(answers: MeasuredAnswers, relations: Sequence[str], examples: Examples) -> QueryColumns:
    names = [relations[index] for index in examples.relation_N]
    return QueryColumns(answers.columns, examples.fact_N, names)


def _columns(
    examples: Examples,
    pool: Examples,
    n_relations: int,
    config: MeasureConfig,
    progress: Callable[[int, int], None],
) -> MeasuredAnswers:
    """All columns of the examples; those of exact ablation are NaN outside its sample."""
    groups = _groups(config, examples)
    neurons = any(METRICS[base].of_neurons for name in wanted(config) for base in base_metrics(name))
    of_sets = tuple(name for name in groups if GROUPS[name].of_set)
    dear = tuple(name for name in groups if GROUPS[name].cost == "ablations")
    of_batches = tuple(name for name in groups if name not in {*of_sets, *dear})
    second = sample(examples, config.ablation_queries, config.seed) if dear else np.zeros(0, int)
    done, total = 0, len(examples) * (1 + len(of_sets)) + len(second)

    def advance(n: int) -> None:
        nonlocal done
        done += n
        progress(done, total)

    rule = integral(config.rule, config.points, config.tolerance)
    longest = int(examples.answer_length_N.max())
    rows = max(longest, min(config.rows, int(examples.answer_length_N.sum())))

    def measured(examples: Examples, groups: tuple[str, ...], rows: int, neurons: bool) -> MeasuredAnswers:
        return measured_answers(
            examples,
            k=config.k,
            n_relations=n_relations,
            integral=rule,
            groups=groups,
            neurons=neurons,
            n_controls=config.controls,
            rows=rows,
            seed=config.seed,
            progress=advance,
        )

    answers = measured(examples, of_batches, rows, neurons)
    columns = dict(answers.columns)
    if len(second):
        # L·F evaluations a row: fewer rows at once, unless one answer needs more.
        few = measured(examples[second], dear, min(rows, max(32, longest)), False)
        for name in set(few.columns) - set(columns):
            columns[name] = np.full(len(examples), np.nan)
            columns[name][second] = few.columns[name]
    whole = MeasuredSet(examples, pool, config.k, rule, rows, config.seed)
    for name in of_sets:
        columns |= GROUPS[name].columns(whole)
        advance(len(examples))
    return answers._replace(columns=columns)
