"""Ways to edit compared on one model: single edits, a batch of them, and a sequence."""

import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.files import write_json
from jaxinterp.base.owner import owned
from jaxinterp.base.progress import progress
from jaxinterp.base.records import Record, claim_recorded, saying_how_to_go_on
from jaxinterp.editing.change import apply, change_of
from jaxinterp.editing.deltas import Rows
from jaxinterp.editing.places import check_layers
from jaxinterp.editing.protocol.columns import outcome
from jaxinterp.editing.protocol.summary import Table, summary
from jaxinterp.editing.protocol.texts import perplexity
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.bundle import load_model
from jaxinterp.report.shown import print_parts
from jaxinterp.studies.editing.config import EditingConfig
from jaxinterp.studies.editing.page import REPORT, write_page
from jaxinterp.studies.editing.posed import facts_of, posed
from jaxinterp.studies.editing.results import Results, shown
from jaxinterp.studies.editing.sequences import RUINED, sequence_of
from jaxinterp.studies.editing.ways import WAYS, Tools, Way
from jaxinterp.training.texts import documents_of


def study(config: EditingConfig, out: Path) -> Results:
    """Compares ways to edit, or goes on with it; prints tables and writes results.json, tables as CSV, charts/ and
    report.html.

    Args:
      config: of the study.
      out: its folder. What was done there is kept edit by edit; the same study started again goes on.
    Raises:
      UserError: if the model or the facts cannot be read, a way is unknown, or the folder holds another study.
    """
    return study_of(load_model(config.model), config, out)


def study_of(model: LanguageModel, config: EditingConfig, out: Path, *, quiet: bool = False) -> Results:
    """`study` of a model in memory; a quiet one prints no tables."""
    for name in config.ways:
        if name not in WAYS:
            raise unknown("way to edit", name, WAYS)
    if not config.ways:
        raise UserError(f"there is no way to edit to look at; known: {', '.join(WAYS)}")
    check_layers(model, config.layers or (0,))
    alone = [name for name in config.ways if config.sequence and config.group > 1 and not WAYS[name].several]
    if [name for name in alone if name != "no_op"]:
        raise UserError(f"{alone[-1]} edits one fact at a time; give --group 1, or leave it out of ways")
    facts = facts_of(model, config.facts).limited(config.limit, config.seed)
    text = "" if config.text == "facts" else documents_of(config.text_folder()).digest
    identity = {"weights_sha256": model.digest(), "facts_sha256": facts.digest(), "text_sha256": text}
    with saying_how_to_go_on(out), owned(out):
        provenance = claim_recorded({**dataclasses.asdict(config), **identity}, out)
        asked = posed(model, facts, config)
        tools = Tools(asked, out)
        before = perplexity(model, asked.texts.perplexity)
        single, batch, sequences = {}, {}, {}
        for name in config.ways:
            record = Record(out / f"single-{name}.jsonl")
            with progress(f"edit: {WAYS[name].title}", config.edits, done=len(record)) as report:
                for number in range(config.edits):
                    if number not in record:
                        record.add([_single(tools, WAYS[name], number, before)])
                    report(number + 1, asked.cases[number].request.prompt)
            single[name] = [record[number] for number in range(config.edits)]
        for name in config.ways:
            if config.batch and WAYS[name].several and name != "no_op":
                batch[name] = _batch(tools, WAYS[name], name, before, out)
            if config.sequence and name != "no_op":
                sequences[name] = sequence_of(tools, name, out)
        results = Results(
            config=dataclasses.asdict(config),
            provenance=provenance,
            known=int(asked.known_N.sum()),
            single={name: _summary(lines) for name, lines in single.items()},
            rows={name: float(max(line["rows"] for line in lines)) for name, lines in single.items()},
            refused={name: sum(bool(line["refused"]) for line in lines) for name, lines in single.items()},
            seconds={name: _median([line["seconds"] for line in lines]) for name, lines in single.items()},
            batch={name: _summary(lines) for name, lines in batch.items()},
            sequence=sequences,
        )
        write_json(out / "results.json", results.to_json())
        results.write_tables(out)
        write_page(out, results)
        if not quiet:
            for parts in shown(results).values():
                print_parts(parts)
    if not quiet:
        print(f"report: {out / REPORT}   numbers: {out / 'results.json'}")
    return results


def _summary(lines: list[Mapping]) -> Table:
    return summary([{**dict.fromkeys(line["missing"], math.nan), **line["columns"]} for line in lines])


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _line(number: int, columns: Mapping[str, float], seconds: float, rows: int) -> dict:
    """A line of a record; JSON has no NaN."""
    most = {"perplexity_ratio": RUINED}
    there = {name: min(value, most.get(name, value)) for name, value in columns.items() if not math.isnan(value)}
    missing = [name for name in columns if name not in there]
    return {"fact": number, "columns": there, "missing": missing, "seconds": seconds, "rows": rows}


def _single(tools: Tools, way: Way, number: int, before: float) -> dict:
    """What one edit of the untouched model does."""
    asked = tools.posed
    start = time.monotonic()
    try:
        change, refused = way.make(way, tools, asked.model, [number]), ""
    except UserError as error:  # of this fact; the others go on
        change, refused = change_of(asked.model, []), str(error)
    seconds = time.monotonic() - start
    edited = apply(change, asked.model)
    ratio = (before, perplexity(edited, asked.texts.perplexity) if change.deltas else before)
    columns = outcome(edited, asked.before(number), asked.prepared[number], perplexities=ratio)
    rows = sum(len(one.row_K) if isinstance(one, Rows) else len(one.left_FN) for one in change.deltas)
    return {**_line(number, columns, seconds, rows), "refused": refused}


def _batch(tools: Tools, way: Way, name: str, before: float, out: Path) -> list[dict]:
    """What many edits at once do to each of them and to its questions."""
    asked, record = tools.posed, Record(out / f"batch-{name}.jsonl")
    numbers = list(range(tools.config.batch))
    if any(number not in record for number in numbers):
        start = time.monotonic()
        edited = apply(way.make(way, tools, asked.model, numbers), asked.model)
        seconds = (time.monotonic() - start) / len(numbers)
        ratio = (before, perplexity(edited, asked.texts.perplexity))
        with progress(f"batch: {way.title}", len(numbers)) as report:
            for number in numbers:
                columns = outcome(edited, asked.before(number), asked.prepared[number], perplexities=ratio)
                if number not in record:
                    record.add([_line(number, columns, seconds, 0)])
                report(number + 1, "")
    return [record[number] for number in numbers]
