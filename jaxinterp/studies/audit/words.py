"""What an audit found, in words and in tables for the terminal."""

from collections.abc import Mapping

from rich.table import Table

from jaxinterp.base.tables import print_table
from jaxinterp.metrics.registry import METRICS
from jaxinterp.studies.audit.arms import CHEATS
from jaxinterp.studies.audit.rates import FOUND
from jaxinterp.studies.audit.verdict import MOST_SEEDS

REASONS = ("no room", "no value", "not measured")  # why a metric is set aside


def with_interval(effect: Mapping, key: str = "value", digits: int = 3) -> str:
    """A change and its interval, in words."""
    if effect[key] is None:
        return "–"
    value, low, high = (
        None if x is None else f"{round(x, digits) + 0.0:+.{digits}f}".replace("-", "−")
        for x in (effect[key], effect["low"], effect["high"])
    )
    return value if low is None else f"{value} [{low}, {high}]"


def decided_by(found: Mapping) -> str:
    """How many seeds would decide a verdict, in words; nothing if it is decided."""
    if found["verdict"] != "undecided":
        return ""
    seeds = found["seeds_to_decide"]
    return f"more than {MOST_SEEDS} seeds would decide" if seeds is None else f"{seeds} seeds would decide"


def aside_in_words(found: Mapping) -> str:
    """The metrics of a verdict that cannot show a rise, by the reason."""
    reasons = {why: [name for name in found["set_aside"] if found["set_aside"][name] == why] for why in REASONS}
    return "; ".join(
        f"{why}: {', '.join(str(METRICS[name].label) for name in names)}" for why, names in reasons.items() if names
    )


def in_words(alarms: Mapping) -> str:
    """False alarms of a set."""
    if not alarms["divisions"]:
        return f"{alarms['models']} plain models are too few to divide"
    rate, counts = alarms["rate"], alarms["outcomes"]
    counted = ", ".join(f"{n} {outcome}" for outcome, n in counts.items() if n)
    return (
        f"{rate['value']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}] of {alarms['divisions']} divisions of "
        f"{alarms['models']} plain models into two groups of {alarms['size']} ({counted}); if S is made to rise as "
        f"well, {alarms['granted'].get('improved', 0)} of them are improved, and {alarms['rising']['value']:.1%} of "
        "single families rise"
    )


def left_out_sentences(results: Mapping) -> list[str]:
    """For each set, what the figures of models lack, and of how many; groups that lack the same stand together."""
    found: dict[tuple[str, str], list[str]] = {}
    for group, by_set in results["left_out"].items():
        for set_name, counts in by_set.items():
            what = "; ".join(f"{what} in {n} model{'s' * (n > 1)}" for what, n in counts.items())
            found.setdefault((set_name, what), []).append(results["titles"][group])
    return [
        f"{', '.join(groups) if len(groups) < len(results['titles']) else 'each group'}, {set_name.replace('_', ' ')}: "
        f"left out: {what}"
        for (set_name, what), groups in found.items()
    ]


def print_verdicts(results: Mapping) -> None:
    """Prints the verdicts, with the change of the trained metric, what the families do, and how often they err."""
    trained = results["criteria"]["trained"]
    errs = ("improved wrongly", "Goodharted wrongly", "improved found", "Goodharted found")
    table = Table("models", "set", "verdict", "because", f"change of {trained}", *errs)
    for group, by_set in results["verdicts"].items():
        for set_name, found in by_set.items():
            table.add_row(
                results["titles"][group] + (" (a cheat)" if group in CHEATS else ""),
                set_name.replace("_", " "),
                found["verdict"],
                "; ".join(filter(None, (found["because"], decided_by(found)))),
                with_interval(found["effects"][trained]),
                *(f"{rate['value']:.1%}" for rate in found["rates"].values()),
            )
        table.add_section()
    print_table(table)
    if not results["verdicts"]:
        print("no verdict: too few seeds")
    print(f"found: of such audits, where all families rise by {FOUND:g} smallest effects, and where none rises")
    heads = ("models", "set", *results["criteria"]["families"], "set aside")
    families = Table(*heads, title="families, in smallest effects")
    for group, by_set in results["verdicts"].items():
        for set_name, found in by_set.items():
            cells = (found["families"].get(name) for name in results["criteria"]["families"])
            words = ("–" if of is None else f"{of['state']}\n{with_interval(of, digits=1)}" for of in cells)
            families.add_row(results["titles"][group], set_name.replace("_", " "), *words, aside_in_words(found))
        families.add_section()
    print_table(families)
    for group, n in results["failed"].items():
        if n:
            print(f"{results['titles'][group]}: {n} runs failed, their numbers stopped being finite")
    for group, n in results["never_began"].items():
        print(f"{results['titles'][group]}: {n} models are plain ones, as their objective never began")
    for sentence in left_out_sentences(results):
        print(sentence)
    for set_name, alarms in results["false_alarms"].items():
        print(f"false alarms, {set_name.replace('_', ' ')}: {in_words(alarms)}")
