"""The measurement of a model on sets of facts."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Int

from jaxinterp.facts.encoding import EncodedQueries, encode
from jaxinterp.facts.facts import SETS, FactSet, Split
from jaxinterp.metrics import builtin  # noqa: F401  (registers the metrics)
from jaxinterp.metrics.answers import ABILITY, Answers, measured_answers
from jaxinterp.metrics.columns import MeasuredSet, get_group, group_names, groups_giving
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.estimates import Estimates, estimate
from jaxinterp.metrics.recall import measured_ability, recalled
from jaxinterp.metrics.registry import NEURONS, Metric, get_metric, metric_names
from jaxinterp.models.bundle import LanguageModel
from jaxinterp.quadrature import integral
from jaxinterp.selection import check_k

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Metrics of a model."""

    ability: Mapping[str, Estimates]  # recall and, of a causal model, cross-entropy; on the training sentences, if any
    sets: Mapping[str, Mapping[str, Estimates]]
    # How often each neuron was selected in the first set, by relation, in answer tokens.
    selected: Float[np.ndarray, "relations L F"]


def sample(queries: EncodedQueries, n: int, seed: int) -> Int[np.ndarray, " n"]:
    """Indices of at most n queries, one a fact before any fact has two, spread evenly over relations; n = 0 is all."""
    if not n or n >= len(queries):
        return np.arange(len(queries))
    order = np.random.default_rng(seed).permutation(len(queries))
    level = _earlier(queries.fact_N[order])
    within = _earlier(queries.relation_N[order] * (level.max() + 1) + level)
    return np.sort(order[np.lexsort((within, level))[:n]])


def _earlier(labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """For each element, how many equal ones stand before it."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    counts = np.empty(len(labels), int)
    counts[order] = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return counts


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
    return measure_sets(model, facts, sets, training, config, progress=progress)


def measure_facts(
    model: LanguageModel, facts: FactSet, config: MeasureConfig, *, progress: Progress = lambda *_: None
) -> tuple[Measurement, dict[str, int]]:
    """Measures any model on any facts: on the sets "facts" and "known_facts", those that it answers correctly.

    What it knows is found out on `config.ability_queries` queries; each set is a sample of `config.queries`. Causal
    models are asked only with prompts that have the answer last.

    Returns:
      The measurement, and how many facts, prompts and queries were left out, by reason.
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

    correct = recalled(model.config, model.params, tried, rows=config.rows, progress=advance)["correct"] > 0
    sets = {"facts": tried}
    if correct.any():
        sets["known_facts"] = tried[np.flatnonzero(correct)]
    return measure_sets(model, facts, sets, tried, config, progress=progress), left_out


def measure_sets(
    model: LanguageModel,
    facts: FactSet,
    sets: Mapping[str, EncodedQueries],
    ability: EncodedQueries,
    config: MeasureConfig,
    *,
    progress: Progress = lambda *_: None,
) -> Measurement:
    """Measures a model on sets of queries with per-layer integrated gradients and a fixed k.

    Args:
      model: a language model.
      facts: what the queries index into.
      sets: by name; each is sampled.
      ability: on which recall and cross-entropy are measured.
      config: see `MeasureConfig`.
      progress: called with (set, queries done, queries in all).
    Raises:
      UserError: if k does not fit the model, or a metric is unknown or was not measured.
    """
    check_k(config.k, model.config.n_neurons)
    groups = _groups(config)
    neurons = any(get_metric(name).of_neurons for name in wanted(config))
    measured, selected = {}, None
    for name, pool in sets.items():
        queries = pool[sample(pool, config.queries, config.seed)]
        answers = _columns(model, facts, queries, pool, groups, neurons, config, functools.partial(progress, name))
        measured[name] = _estimates(wanted(config), answers, facts, queries, config)
        if selected is None:
            selected = answers.selected
    queries = ability[sample(ability, config.ability_queries, config.seed)]
    columns = measured_ability(model.config, model.params, queries, rows=config.rows)
    about = Answers(columns, np.zeros(0), None, None)
    return Measurement(_estimates((), about, facts, queries, config), measured, selected)


BASE = ("base", "ablations")  # costs of what is measured if no metric is named


def wanted(config: MeasureConfig) -> tuple[str, ...]:
    """The metrics that are named; () is all that the columns allow. "all" stands for every registered one."""
    return metric_names() if config.metrics == ("all",) else config.metrics


def _groups(config: MeasureConfig) -> tuple[str, ...]:
    """The groups of columns that the metrics need; those of one answer at a time first."""
    named = [get_metric(name) for name in wanted(config)]
    if not named:
        found = tuple(name for name in group_names() if get_group(name).cost in BASE)
    else:
        found = groups_giving({need for metric in named for need in metric.needs} - {*ABILITY, *NEURONS})
    if not config.ablation_queries:
        found = tuple(name for name in found if get_group(name).cost != "ablations")
    return found


def _estimates(
    names: tuple[str, ...],
    answers: Answers,
    facts: FactSet,
    queries: EncodedQueries,
    config: MeasureConfig,
) -> dict[str, Estimates]:
    """The named metrics, or all that the columns allow; of "all" as well, those that they allow."""
    # A set of one relation has no controls: their column is NaN throughout.
    measured = {name for name, values in answers.columns.items() if not np.isnan(values).all()}
    if answers.activation_NU is not None:
        measured |= set(NEURONS)

    def allowed(metric: Metric) -> bool:
        return not set(metric.needs) - measured

    if not names or config.metrics == ("all",):
        names = tuple(name for name in metric_names() if allowed(get_metric(name)))
    relations = [facts.relations[index].name for index in queries.relation_N]
    return estimate(
        names,
        answers.columns,
        queries.fact_N,
        relations,
        activation_NU=answers.activation_NU,
        selected_NU=answers.selected_NU,
        replicates=config.replicates,
        seed=config.seed,
    )


def _columns(
    model: LanguageModel,
    facts: FactSet,
    queries: EncodedQueries,
    pool: EncodedQueries,
    groups: tuple[str, ...],
    neurons: bool,
    config: MeasureConfig,
    progress: Callable[[int, int], None],
) -> Answers:
    """All columns of the queries; those of exact ablation are NaN outside its sample."""
    of_sets = tuple(name for name in groups if get_group(name).of_set)
    dear = tuple(name for name in groups if get_group(name).cost == "ablations")
    of_batches = tuple(name for name in groups if name not in {*of_sets, *dear})
    second = sample(queries, config.ablation_queries, config.seed) if dear else np.zeros(0, int)
    done, total = 0, len(queries) * (1 + len(of_sets)) + len(second)

    def advance(n: int) -> None:
        nonlocal done
        done += n
        progress(done, total)

    rule = integral(config.rule, config.points, config.tolerance)
    longest = int(queries.answer_length_N.max())
    rows = max(longest, min(config.rows, int(queries.answer_length_N.sum())))

    def measured(
        queries: EncodedQueries, groups: tuple[str, ...], rows: int, neurons: bool, n_controls: int
    ) -> Answers:
        return measured_answers(
            model.config,
            model.params,
            queries,
            k=config.k,
            n_relations=len(facts.relations),
            integral=rule,
            groups=groups,
            neurons=neurons,
            n_controls=n_controls,
            rows=rows,
            seed=config.seed,
            progress=advance,
        )

    answers = measured(queries, of_batches, rows, neurons, config.controls)
    columns = dict(answers.columns)
    if len(second):
        # L·F evaluations a row: fewer rows at once, unless one answer needs more.
        few = measured(queries[second], dear, min(rows, max(32, longest)), False, 1)
        for name in set(few.columns) - set(columns):
            columns[name] = np.full(len(queries), np.nan)
            columns[name][second] = few.columns[name]
    found = MeasuredSet(model.config, model.params, queries, pool, config.k, rule, rows, config.seed)
    for name in of_sets:
        columns |= get_group(name).columns(found)
        advance(len(queries))
    return answers._replace(columns=columns)
