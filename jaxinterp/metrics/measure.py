"""The measurement of a model on sets of facts."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Int

from jaxinterp.facts.encoding import EncodedQueries, encode
from jaxinterp.facts.facts import SETS, FactSet, Split
from jaxinterp.metrics import builtin  # noqa: F401  (registers the metrics)
from jaxinterp.metrics.answers import (
    Answers,
    measured_ability,
    measured_answers,
    measured_by_ablation,
    recalled,
)
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.estimates import Estimates, estimate
from jaxinterp.metrics.registry import get_metric, metric_names
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
    for name in config.metrics:
        get_metric(name)
    measured, selected = {}, None
    for name, queries in sets.items():
        queries = queries[sample(queries, config.queries, config.seed)]
        answers = _columns(model, facts, queries, config, functools.partial(progress, name))
        measured[name] = _estimates(config.metrics, answers.columns, facts, queries, config)
        if selected is None:
            selected = answers.selected
    queries = ability[sample(ability, config.ability_queries, config.seed)]
    columns = measured_ability(model.config, model.params, queries, rows=config.rows)
    return Measurement(_estimates((), columns, facts, queries, config), measured, selected)


def _estimates(
    names: tuple[str, ...],
    columns: Mapping[str, Float[np.ndarray, " N"]],
    facts: FactSet,
    queries: EncodedQueries,
    config: MeasureConfig,
) -> dict[str, Estimates]:
    """The named metrics, or all that the columns allow."""
    # A set of one relation has no controls: their column is NaN throughout.
    measured = {name for name, values in columns.items() if not np.isnan(values).all()}
    names = names or tuple(name for name in metric_names() if not set(get_metric(name).needs) - measured)
    relations = [facts.relations[index].name for index in queries.relation_N]
    return estimate(names, columns, queries.fact_N, relations, replicates=config.replicates, seed=config.seed)


def _columns(
    model: LanguageModel,
    facts: FactSet,
    queries: EncodedQueries,
    config: MeasureConfig,
    progress: Callable[[int, int], None],
) -> Answers:
    """All columns of the queries; those of exact ablation are NaN outside its sample."""
    second = sample(queries, config.ablation_queries, config.seed) if config.ablation_queries else np.zeros(0, int)
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        progress(done, len(queries) + len(second))

    rule = integral(config.rule, config.points, config.tolerance)
    common = {"k": config.k, "integral": rule, "seed": config.seed, "progress": advance}
    longest = int(queries.answer_length_N.max())
    rows = max(longest, min(config.rows, int(queries.answer_length_N.sum())))
    answers = measured_answers(
        model.config,
        model.params,
        queries,
        n_relations=len(facts.relations),
        n_controls=config.controls,
        rows=rows,
        **common,
    )
    if not len(second):
        return answers
    # L·F evaluations a row: fewer rows at once, unless one answer needs more.
    rows = min(rows, max(32, longest))
    by_ablation = measured_by_ablation(model.config, model.params, queries[second], rows=rows, **common)
    columns = dict(answers.columns)
    for name, values in by_ablation.items():
        columns[name] = np.full(len(queries), np.nan)
        columns[name][second] = values
    return answers._replace(columns=columns)
