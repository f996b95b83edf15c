"""Models of several seeds: do suppressable ones edit better, does attribution inform edits, are facts legible?"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json, write_json, write_text
from jaxinterp.base.owner import owned
from jaxinterp.base.provenance import provenance
from jaxinterp.base.records import Record, claim_recorded, saying_how_to_go_on
from jaxinterp.facts.facts import FactSet
from jaxinterp.memories.legible import knowledge_neurons, known_queries, legible_facts
from jaxinterp.memories.lens import Lens
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.bundle import load_model
from jaxinterp.report.charts import save_chart
from jaxinterp.report.sections import Section, write_sections
from jaxinterp.report.shown import print_parts
from jaxinterp.studies.editing.config import EditingConfig
from jaxinterp.studies.editing.informs import informing_edits, informs
from jaxinterp.studies.editing.posed import facts_of, posed
from jaxinterp.studies.editing.seeds_config import EditingSeedsConfig
from jaxinterp.studies.editing.seeds_tables import (
    EDITS,
    INFORMS,
    LEGIBLE,
    OUTCOMES,
    VALUES,
    csv_of,
    differences,
    informs_chart,
    means,
    plain_effects,
    shown,
)  # fmt: skip
from jaxinterp.studies.editing.study import study_of
from jaxinterp.studies.editing.ways import WAYS
from jaxinterp.training.data import data_from_provenance

REPORT = "report.html"
SEED = re.compile(r"(?:(?P<group>.+)-)?seed(?P<seed>\d+)")
LENS = "norm_folded"
LEAD = (
    "Groups of models that were trained in one way from several seeds. Every model is asked alone; figures are means "
    "over the seeds of a group, with Student's t intervals over them. Differences are taken seed by seed.",
    "Intervals are those of other seeds on such facts. Facts are drawn for each model out of those that it knows.",
)


class Member(NamedTuple):
    """One model."""

    group: str
    seed: int
    folder: Path


def members_of(folders: Sequence[Path]) -> list[Member]:
    """The models in folders, group by group.

    Raises:
      UserError: if a folder has none, or a seed of a group is there twice.
    """
    found: list[Member] = []
    for folder in folders:
        names = [path for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
        own = [(match, path) for path in names if (match := SEED.fullmatch(path.name))]
        if not own:
            raise UserError(
                f"{folder} has no models called <group>-seed<n> or seed<n>; experiments/seeds.py makes some"
            )
        inside = folder.resolve()
        holder = (inside.parent if inside.name == "models" else inside).name
        found += [Member(match["group"] or holder, int(match["seed"]), path) for match, path in own]
    pairs = [(one.group, one.seed) for one in found]
    for group, seed in pairs:
        if pairs.count((group, seed)) > 1:
            raise UserError(f"the group {group} has seed {seed} twice; give each folder once")
    return sorted(found, key=lambda one: ([group for group, _ in pairs].index(one.group), one.seed))


def editing_seeds_study(config: EditingSeedsConfig, out: Path) -> dict:
    """Asks every model, or goes on with it; prints tables and writes results.json, seeds.csv and report.html.

    Args:
      config: the models, and what is asked.
      out: folder; that of a model is <group>-seed<n> in it, and each is kept edit by edit.
    Returns:
      What results.json has.
    Raises:
      UserError: as `members_of` and `study`.
    """
    members = members_of(config.folders)
    by_member: dict[Member, dict[str, float]] = {}
    with saying_how_to_go_on(out):
        for member in members:
            by_member[member] = _asked(member, config, out / f"{member.group}-seed{member.seed}")
        groups: dict[str, dict[int, dict[str, float]]] = {}
        for member, values in by_member.items():
            groups.setdefault(member.group, {})[member.seed] = values
        tables = means(groups, config.level), differences(groups, config.level)
        results = {
            "config": {**dataclasses.asdict(config), "folders": [str(folder) for folder in config.folders]},
            "provenance": provenance(),
            "models": {f"{one.group}-seed{one.seed}": _finite(values) for one, values in by_member.items()},
            "means": plain_effects(tables[0]),
            "differences": plain_effects(tables[1]),
            "outcomes": dict(OUTCOMES),
        }
        write_json(out / "results.json", results)
        write_text(out / "seeds.csv", csv_of(*tables))
        parts = shown(*tables, {name: way.title for name, way in WAYS.items()})
        chart = informs_chart(tables[0])
        if chart is not None:
            save_chart(chart, out / "charts", "informs")
        sections = [Section("seeds", "Over seeds", parts, {"informs": chart})]
        write_sections(out / REPORT, "Editing over seeds", LEAD, sections, results["provenance"])
    print_parts(parts)
    print(f"report: {out / REPORT}   numbers: {out / 'results.json'}, {out / 'seeds.csv'}")
    return results


def _asked(member: Member, config: EditingSeedsConfig, out: Path) -> dict[str, float]:
    """All figures of one model, by name; NaN where there is none."""
    model = load_model(member.folder)
    print(f"\n{member.group}, seed {member.seed}: {member.folder}", flush=True)
    edits = dataclasses.replace(config.edits, model=str(member.folder))
    found = _of_edits(model, config, edits, out / "edits")
    with owned(out / "more"):
        asked = {"informs": dataclasses.asdict(config.informs), "legible": config.legible}
        asked |= {"edits": dataclasses.asdict(edits), "weights_sha256": model.digest()}
        claim_recorded(asked, out / "more")
        return found | _of_informs(model, config, edits, out / "more") | _of_legible(model, config, out / "more")


def _of_edits(model: LanguageModel, config: EditingSeedsConfig, edits: EditingConfig, out: Path) -> dict[str, float]:
    results = study_of(model, edits, out, quiet=True)
    return {
        f"{way}/{column}": table.rows[column].value
        for way, table in results.single.items()
        for column in EDITS
        if way != "no_op" and column in table.rows
    }


def _of_informs(model: LanguageModel, config: EditingSeedsConfig, edits: EditingConfig, out: Path) -> dict[str, float]:
    if not config.informs.facts:
        return {}
    own = dataclasses.replace(edits, edits=config.informs.facts, batch=0, sequence=0)
    asked = posed(model, facts_of(model, own.facts), own)
    lines = informing_edits(asked, config.informs, Record(out / "informs.jsonl"))
    found = {}
    for outcome in OUTCOMES:
        of = informs(lines, outcome, config.informs.shuffles, own.seed)
        found |= {f"informs/{outcome}/{name}": math.nan if of is None else getattr(of, name) for name in INFORMS}
    return found


def _of_legible(model: LanguageModel, config: EditingSeedsConfig, out: Path) -> dict[str, float]:
    """Of all facts, and of those that no objective has read."""
    if not config.legible:
        return {}
    facts, found = facts_of(model, config.edits.facts), {}
    parts = {"legible": facts}
    if config.edits.facts is None:
        data = data_from_provenance(model.provenance)
        read = {data.facts.facts[number] for number in data.split.objective[:, 0].tolist()}
        unread = tuple(fact for fact in facts.facts if fact not in read)
        parts["legible_unread"] = dataclasses.replace(facts, facts=unread)
    for name, of in parts.items():
        path = out / f"{name}.json"
        if not path.exists():
            write_json(path, _finite(_legible(name, model, of, config)))
        found |= {figure: math.nan if value is None else value for figure, value in read_json(path).items()}
    return found


def _legible(name: str, model: LanguageModel, facts: FactSet, config: EditingSeedsConfig) -> dict[str, float]:
    queries = known_queries(model, facts, config.legible, config.edits.seed)
    if queries is None:
        return {}
    neurons = knowledge_neurons(model.model, queries, seed=config.edits.seed)
    table = legible_facts(model.model, neurons, [Lens(LENS)], seed=config.edits.seed)
    return {
        f"{name}/{figure}/{values}": 100 * table.value(figure, lens=LENS, values=values).value
        for figure in LEGIBLE
        for values in VALUES
    }


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
