"""Edits one after the other, or group after group: what is left of them and of everything else."""

import dataclasses
from pathlib import Path

import numpy as np

from jaxinterp.base.progress import progress
from jaxinterp.base.records import Record
from jaxinterp.editing.change import Change, apply
from jaxinterp.editing.change_file import load_change, save_change
from jaxinterp.editing.keys import request_keys
from jaxinterp.editing.protocol.case import Probe
from jaxinterp.editing.protocol.sequence import Point, SequenceConfig, point_after, ruined
from jaxinterp.editing.protocol.texts import perplexity
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.studies.editing.ways import WAYS, Tools

RUINED = 1e6  # perplexity's factor that is told at most; a ruined model's may be infinite


def sequence_of(tools: Tools, name: str, out: Path) -> list[dict]:
    """What is left after 1, 10, 100, … edits of one way, as lines, one for each `Point`, the untouched model first.

    Changes are kept group by group; an interrupted sequence goes on with the group that was not done.
    """
    asked, config, group = tools.posed, tools.config, tools.config.group
    folder, record = out / "changes" / name, Record(out / f"sequence-{name}.jsonl")
    ends = range(group, config.sequence + group, group)
    if ends[-1] in record:
        return [record[n] for n in _looked_at(ends) if n in record]
    folder.mkdir(parents=True, exist_ok=True)
    others = _others(tools)
    before = perplexity(asked.model, asked.texts.perplexity)
    model, state = asked.model, dataclasses.replace(asked.model)
    if 0 not in record:
        record.add([_line(_look(tools, model, 0, others, before))])
    earlier_PF = np.zeros((0, model.config.d_mlp))
    with progress(f"sequence: {WAYS[name].title}", len(ends)) as report:
        for done, end in enumerate(ends, start=1):
            numbers = list(range(end - group, min(end, config.sequence)))
            path = folder / f"{end}.safetensors"
            if path.exists():
                change = load_change(path)
            else:
                change = _change(tools, name, state, numbers, earlier_PF)
                save_change(path, change)
            if name == "alphaedit":
                own = [asked.cases[number].request for number in numbers]
                earlier_PF = np.concatenate([earlier_PF, request_keys(state, own, tools.layers[-1], (), config.at)])
            # Without the list of all edits before it, which grows.
            origin = {"original": {}, "edits": [{"model": model.digest()}]}
            state = dataclasses.replace(apply(change, state), provenance=origin)
            if end in _looked_at(ends) and end not in record:
                record.add([_line(_look(tools, state, min(end, config.sequence), others, before), end)])
            report(done, "")
    return [record[n] for n in _looked_at(ends) if n in record]


def _looked_at(ends: range) -> list[int]:
    """Edits after which the model is looked at: the first group, the ends nearest above powers of 10 and their halves,
    and the last.
    """
    wanted = [n * 10**power for power in range(6) for n in (1, 2, 5)]
    found = {next((end for end in ends if end >= n), ends[-1]) for n in wanted}
    return [0, *sorted(found)]


def _change(tools: Tools, name: str, state: LanguageModel, numbers: list[int], earlier_PF: np.ndarray) -> Change:
    way = WAYS[name]
    if name != "alphaedit":
        return way.make(way, tools, state, numbers)
    own = tools.with_earlier({tools.layers[-1]: earlier_PF})
    return way.make(way, own, state, numbers)


def _others(tools: Tools) -> list[Probe]:
    """The facts that no edit should change, or is told of."""
    facts = tools.posed.facts
    texts = [facts.text(index, 0) for index in tools.posed.untouched]
    return [Probe("other", text.before, text.answer, None, text.after) for text in texts]


def _look(tools: Tools, state: LanguageModel, n: int, others: list[Probe], before: float) -> Point:
    requests = [tools.posed.cases[number].request for number in range(n)]
    point = point_after(state, requests, others, tools.posed.texts.perplexity, before)
    return point._replace(perplexity_ratio=min(point.perplexity_ratio, RUINED))


def _line(point: Point, end: int = 0) -> dict:
    values = {name: value for name, value in point._asdict().items() if value == value}
    return {"fact": end, **values, "ruined": ruined(point, SequenceConfig())}
