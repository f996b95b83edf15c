"""Tables of a study: verdicts, contrasts at equal steps and at an equal loss, and all points."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from jaxinterp.metrics.intervals import Estimate
from jaxinterp.report.shown import Part
from jaxinterp.studies.crossed import Crossed
from jaxinterp.studies.engine.charts import Row, metric_title
from jaxinterp.studies.engine.config import StudyConfig
from jaxinterp.studies.engine.contrasts import ALPHA, POWER, Finding
from jaxinterp.studies.engine.front import Front, PointMeans
from jaxinterp.studies.engine.hypothesis import Hypothesis
from jaxinterp.studies.engine.matching import FAR, Common, ReadOff
from jaxinterp.studies.engine.points import Levels, levels_of, point_words
from jaxinterp.studies.engine.run import NONE

SIGN = {"higher": ">", "lower": "<", "same": "within ±"}


def hypothesis_parts(found: Sequence[Finding]) -> list[Part]:
    """The verdicts, and how they were come to."""
    columns = (
        "hypothesis",
        "claim",
        "verdict",
        "change",
        "95 % interval",
        "p",
        "n",
        "runs",
        "detectable",
        "power",
        "why",
    )
    table = Table(*columns, title="Hypotheses, as they were written down before the runs")
    for of in found:
        row = finding_row(of)
        p = "–" if of.effect is None or of.found.missing.lacks else f"{of.p:.2g}"
        cells = (row["hypothesis"], row["claim"], of.verdict, figure(row["change"]), interval(row), p)
        power = "–" if row["power"] is None else f"{row['power']:.0%}"
        n = f"{of.found.n} {of.found.unit}"
        table.add_row(*cells, n, str(of.found.n_runs), figure(row["detectable"]), power, of.because)
    words = (
        "Runs that differ in the factor alone are paired and averaged by seed. n is what the interval is over. p is "
        f"corrected by Holm over all hypotheses, and decides below {ALPHA:g}. Detectable is the smallest change that "
        f"would be told from none with a probability of {POWER:.0%}; power is the one with which the margin would be."
    )
    return [table, words]


def beside_row(steps: Finding, loss: Finding) -> Row:
    """A contrast after all steps and at one loss as a row of a CSV."""
    names = ("claim", "change", "low", "high", "p", "n", "runs", "verdict", "because")
    row: Row = {"hypothesis": steps.hypothesis.name}
    for at, of in (("steps", finding_row(steps)), ("loss", finding_row(loss))):
        row |= {f"{at} {name}": of[name] for name in names}
    return {**row, "loss gap": loss.found.gap}


def beside_parts(both: Sequence[tuple[Finding, Finding]]) -> list[Part]:
    """Contrasts after all steps and at one loss, beside one another."""
    heads = [f"{name} at equal {at}" for at in ("steps", "loss") for name in ("change", "interval", "verdict")]
    heads += ["gap", "pairs", "pairs at one loss"]
    table = Table("hypothesis", *heads, title="Contrasts at equal steps and at equal loss")
    for pair in both:
        rows = [finding_row(of) for of in pair]
        cells = [cell for row in rows for cell in (figure(row["change"]), interval(row), str(row["verdict"]))]
        gap = figure(pair[1].found.gap)
        table.add_row(str(rows[0]["hypothesis"]), *cells, gap, *(str(row["runs"]) for row in rows))
    words = (
        "At equal loss both runs of a pair are taken where they had the larger one of their final losses; a pair of "
        "which one run never had it is left out. One of the two is read off between two measured steps: gap is how "
        "far apart the metric is at these, a mean over pairs. p is corrected within each of the two, so that verdicts "
        "may differ from those above."
    )
    return [table, words]


def crossed_row(claim: Hypothesis, of: Crossed) -> Row:
    """A contrast over seeds and relations as a row of a CSV."""
    names = {"change": "value", "low": "low", "high": "high", "p": "p", "seeds": "n_seeds", "relations": "n_relations"}
    names |= {name: name for name in ("seed_sd", "relation_sd", "rest_sd", "freedom")}
    return {"hypothesis": claim.name, **{name: getattr(of, field) for name, field in names.items()}}


def crossed_parts(crossed: Sequence[tuple[Hypothesis, Crossed]]) -> list[Part]:
    """Contrasts with seeds and relations crossed."""
    heads = (
        "hypothesis",
        "change",
        "95 % interval",
        "p",
        "seeds",
        "relations",
        "SD of seeds",
        "SD of relations",
        "SD of rest",
    )
    table = Table(*heads, title="Contrasts with seeds and relations crossed, after all steps")
    for claim, of in crossed:
        row = crossed_row(claim, of)
        sds = [figure(getattr(of, name)) for name in ("seed_sd", "relation_sd", "rest_sd")]
        cells = (figure(of.value), interval(row), f"{of.p:.2g}", str(of.n_seeds), str(of.n_relations), *sds)
        table.add_row(claim.name, *cells)
    words = "Seeds and relations each have a change of their own: the interval is for other seeds and other relations."
    return [table, words]


def front_parts(config: StudyConfig, front: Front, area: Estimate) -> list[Part]:
    """The points of the front, and its hypervolume."""
    first, second = config.front
    heads = ("point", metric_title(first), metric_title(second), "seeds")
    table = Table(*heads, title="Points that no other beats in both")
    for of in front.points:
        ends = [of.spread[metric] for metric in (first, second)]
        table.add_row(point_words(of.point), *(figure(end["mean"]) for end in ends), str(min(end["n"] for end in ends)))
    corner = " and ".join(figure(value) for value in front.reference)
    ends = {"low": area.low, "high": area.high} if area.low == area.low else {"low": None}
    words = f"Hypervolume {front.hypervolume:.4g}, 95 % interval over {area.n} seeds {interval(ends)}, "
    if config.reference:
        return [table, f"{words}from the reference, {corner}."]
    moves = "It moves with the points; give the study a reference to compare it with others."
    return [table, f"{words}from the worst values of all points, {corner}. {moves}"]


def points_parts(
    config: StudyConfig, means: Sequence[PointMeans], where: str, read_off: Mapping[Levels, ReadOff] = NONE
) -> list[Part]:
    """Mean ± standard deviation over seeds of every metric at every point; `where` begins the table's title.

    A metric that fewer seeds have than another one of the point says so in brackets. Points at one loss say at which
    steps they are taken.
    """
    names = [factor.name for factor in config.factors]
    title = f"{where}, means over seeds ± standard deviation"
    steps = ["steps"] if read_off else []
    table = Table(*names, *steps, *map(metric_title, config.metrics), "seeds", "failed", title=title)
    fewer = False
    for of in means:
        spreads = [of.spread.get(metric) for metric in config.metrics]
        n = max((spread["n"] for spread in spreads if spread), default=0)
        fewer |= any(spread["n"] < n for spread in spreads if spread)
        cells = [_spread(spread, n) for spread in spreads]
        about = [str(of.point[name]) for name in names]
        about += [_steps(read_off[levels_of(of.point)])] if read_off else []
        table.add_row(*about, *cells, str(n), str(of.n_failed))
    return [table, "In brackets: how many seeds have the metric, where others have more"] if fewer else [table]


def _steps(of: ReadOff) -> str:
    """Where a point is taken: a measured step, or how far it is from one to the next."""
    if of.share == 0:
        return str(of.steps[0])
    return f"{'≈' if of.is_far else ''}{of.steps[0]}…{of.steps[1]}, {of.share:.0%}"


def read_off_words(config: StudyConfig, common: Common) -> list[str]:
    """What the table of points at one loss rests on."""
    words = (
        f"All points where their mean {metric_title(config.match)} over seeds is {common.loss:.4g}. One step is a "
        "measured one. Between two, values are read off the straight line that joins them, so far on the way from the "
        f"first to the second, in loss; ≈ is more than {FAR:.0%} from both. A metric may be anywhere between its two "
        "measured values there: how far these are apart is its gap in the table's CSV."
    )
    n = len(common.missed)
    points = "1 point" if n == 1 else f"{n} points"
    missed = f"{points} never had that loss between two measured steps, and {'is' if n == 1 else 'are'} left out"
    return [words, missed] if n else [words]


def finding_row(of: Finding) -> Row:
    """A finding as a row of a CSV; what is not known is None."""
    claim, effect = of.hypothesis, of.effect
    row: Row = {"hypothesis": claim.name, "claim": claim_words(claim)}
    names = ("change", "low", "high", "detectable", "power")
    row |= dict.fromkeys(names)
    if effect is not None:
        row["change"] = effect.value
    if effect is not None and not of.found.why_not:  # an interval of facts alone says nothing of other seeds
        ends = (effect.low, effect.high)
        row["low"], row["high"] = ends if claim.kind == "contrast" else (max(ends[0], -1.0), min(ends[1], 1.0))
        row["detectable"] = effect.detectable(POWER)
        row["power"] = effect.power(claim.margin) if claim.margin else None
    about = {"p": of.p, "n": of.found.n, "of": of.found.unit, "runs": of.found.n_runs}
    return {**row, **about, "verdict": of.verdict, "because": of.because, "gap": of.found.gap}


def claim_words(claim: Hypothesis) -> str:
    """What a hypothesis claims, in one line."""
    metric, sign = metric_title(claim.metric), SIGN[claim.direction]
    below = claim.direction == "lower" and claim.margin > 0  # there is no −0
    bound = f"{-claim.margin if below else claim.margin:g}".replace("-", "−")
    words = {
        "contrast": f"{metric}: {claim.factor} {claim.after} − {claim.before}",
        "trend": f"ρ of {metric} and {claim.factor}",
        "association": f"ρ of {metric} and {metric_title(claim.other)}" if claim.other else "",
        "retest": f"intraclass correlation of {metric}",
    }[claim.kind]
    given = f", given {metric_title(claim.given)}" if claim.given else ""
    at = ", at matched loss" if claim.at == "loss" else ""
    return f"{words}{given}{at} {sign}{' ' if claim.direction != 'same' else ''}{bound}"


def point_rows(
    config: StudyConfig, means: Sequence[PointMeans], read_off: Mapping[Levels, ReadOff] = NONE
) -> list[Row]:
    """The points as rows of a CSV; of points at one loss with where they are taken, and the gap of each metric."""
    rows = []
    for of in means:
        row: Row = {**of.point, "failed": of.n_failed}
        for metric in config.metrics:
            for name in ("mean", "sd", "n"):
                row[f"{metric} {name}"] = of.spread.get(metric, {"n": 0}).get(name)
        if read_off:
            taken = read_off[levels_of(of.point)]
            row |= {"step before": taken.steps[0], "step after": taken.steps[1], "interpolated": taken.share}
            row |= {f"{metric} gap": taken.gaps.get(metric) for metric in config.metrics}
        rows.append(row)
    return rows


def interval(row: Row) -> str:
    """The interval of a row; a dash if there is none."""
    return "–" if row["low"] is None else f"[{figure(row['low'])}, {figure(row['high'])}]"


def figure(value: float | None) -> str:
    """Four digits; a dash if there is none."""
    return "–" if value is None else f"{value:.4g}".replace("-", "−")


def _spread(of: Mapping[str, Any] | None, n: int) -> str:
    if of is None:
        return "–"
    sd, fewer = "" if of["sd"] is None else f" ± {of['sd']:.2g}", f" ({of['n']})" if of["n"] < n else ""
    return f"{figure(of['mean'])}{sd}{fewer}"
