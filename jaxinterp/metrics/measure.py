"""The measurement of a model on sets of facts."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxinterp.attribution.quadrature import integral
from jaxinterp.attribution.selection import check_k
from jaxinterp.base.errors import UserError
from jaxinterp.facts.encoding import EncodedQueries, earlier, encode, tokens_read
from jaxinterp.facts.facts import FactSet
from jaxinterp.facts.leakage import clean
from jaxinterp.facts.splits import SETS, Split
from jaxinterp.metrics import builtin  # noqa: F401  (registers the metrics)
from jaxinterp.metrics.answers import ABILITY, Answers, measured_answers
from jaxinterp.metrics.columns import MeasuredSet, get_group, group_names, groups_giving
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.estimates import Estimates, estimate
from jaxinterp.metrics.families.suppression import CLEAN
from jaxinterp.metrics.recall import measured_ability, recalled
from jaxinterp.metrics.registry import NEURONS, base_metrics, get_metric, is_measured, metric_names
from jaxinterp.models.loading.bundle import LanguageModel

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Metrics of a model."""

    ability: Mapping[str, Estimates]  # recall and, of a causal model, cross-entropy; on the training sentences, if any
    sets: Mapping[str, Mapping[str, Estimates]]
    # How often each neuron was selected in the first set, by relation, in answers.
    selected: Float[np.ndarray, "relations L F"]


def sample(queries: EncodedQueries, n: int, seed: int) -> Int[np.ndarray, " n"]:
    """Indices of at most n queries, spread over relations and in pairs of one subject; n = 0 is all.

    No fact has two queries before every fact has one. The fact that comes next is of the relation that has fewest, with
    another fact of its subject if there is one, so that answers have controls of their relation and of their subject.
    """
    if not n or n >= len(queries):
        return np.arange(len(queries))
    order = np.random.default_rng(seed).permutation(len(queries))
    level = earlier(queries.fact_N[order])
    taken: list[int] = []
    for turn in range(level.max() + 1):
        if len(taken) < n:
            taken += _in_pairs(order[level == turn].tolist(), queries, n - len(taken))
    return np.sort(np.array(taken))


def _in_pairs(order: list[int], queries: EncodedQueries, n: int) -> list[int]:
    """The first n of the queries as `sample` takes them."""
    relation, subject = queries.relation_N.tolist(), queries.subject_N.tolist()
    left: dict[int, list[int]] = {}
    of_subject: dict[int, list[int]] = {}
    for query in reversed(order):
        left.setdefault(relation[query], []).append(query)
        of_subject.setdefault(subject[query], []).append(query)
    counts, taken, seen = dict.fromkeys(left, 0), [], set()

    def take(query: int) -> None:
        taken.append(query)
        seen.add(query)
        counts[relation[query]] += 1

    while len(taken) < min(n, len(order)):
        rarest = min(left, key=counts.__getitem__)
        while left[rarest] and left[rarest][-1] in seen:
            left[rarest].pop()
        if not left[rarest]:
            del left[rarest]
            continue
        first = left[rarest].pop()
        take(first)
        others = (query for query in of_subject[subject[first]] if query not in seen and relation[query] != rarest)
        second = min(others, key=lambda query: counts[relation[query]], default=None)
        if second is not None and len(taken) < n:
            take(second)
    return taken


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

    correct = recalled(model.config, model.params, tried, rows=config.rows, progress=advance)["correct"] > 0
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
    progress: Progress = lambda *_: None,
) -> Measurement:
    """Measures a model on sets of queries with per-layer integrated gradients and a fixed k.

    Args:
      model: a language model.
      facts: what the queries index into.
      sets: by name; each is sampled.
      ability: on which recall and cross-entropy are measured.
      config: see `MeasureConfig`.
      clean: by set, for each of its queries whether the objective never saw its "answer" and its "subject"; see
        `jaxinterp.facts.leakage.clean`.
      progress: called with (set, queries done, queries in all).
    Raises:
      UserError: if k does not fit the model, or a metric is unknown or was measured in none of the sets.
    """
    check_k(config.k, model.config.n_neurons)
    groups = _groups(config)
    neurons = any(get_metric(base).of_neurons for name in wanted(config) for base in base_metrics(name))
    measured, selected = {}, None
    for name, pool in sets.items():
        index = sample(pool, config.queries, config.seed)
        queries = pool[index]
        answers = _columns(model, facts, queries, pool, groups, neurons, config, functools.partial(progress, name))
        if clean and "suppressed" in answers.columns:
            for what, is_clean in clean[name].items():
                answers.columns[f"suppressed_new_{what}"] = np.where(
                    is_clean[index], answers.columns["suppressed"], np.nan
                )
        measured[name] = _estimates(wanted(config), answers, facts, queries, config)
        if selected is None:
            selected = answers.selected
    if config.metrics != ("all",):
        for name in wanted(config):
            if not any(name in found for found in measured.values()):
                raise UserError(f"metric {name!r} was measured on no fact of any set")
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
    named = [get_metric(base) for name in wanted(config) for base in base_metrics(name)]
    if not named:
        found = tuple(name for name in group_names() if get_group(name).cost in BASE)
    else:
        needs = {need for metric in named for need in metric.needs} - {*ABILITY, *NEURONS}
        clean = {f"suppressed_{name}" for name in CLEAN}
        found = groups_giving((needs - clean) | ({"suppressed"} if needs & clean else set()))
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
    """The named metrics, or all, as far as the columns allow them."""
    # A set of one relation has no controls of another: their column is NaN throughout.
    measured = {name for name, values in answers.columns.items() if not np.isnan(values).all()}
    if answers.activation_NU is not None:
        measured |= set(NEURONS)

    names = tuple(name for name in names or metric_names() if is_measured(name, measured))
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

    def measured(queries: EncodedQueries, groups: tuple[str, ...], rows: int, neurons: bool) -> Answers:
        return measured_answers(
            model.config,
            model.params,
            queries,
            k=config.k,
            n_relations=len(facts.relations),
            integral=rule,
            groups=groups,
            neurons=neurons,
            n_controls=config.controls,
            rows=rows,
            seed=config.seed,
            progress=advance,
        )

    answers = measured(queries, of_batches, rows, neurons)
    columns = dict(answers.columns)
    if len(second):
        # L·F evaluations a row: fewer rows at once, unless one answer needs more.
        few = measured(queries[second], dear, min(rows, max(32, longest)), False)
        for name in set(few.columns) - set(columns):
            columns[name] = np.full(len(queries), np.nan)
            columns[name][second] = few.columns[name]
    found = MeasuredSet(model.config, model.params, queries, pool, config.k, rule, rows, config.seed)
    for name in of_sets:
        columns |= get_group(name).columns(found)
        advance(len(queries))
    return answers._replace(columns=columns)
