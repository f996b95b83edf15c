"""One fact with another answer: what a model says before and after, to questions of every kind."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from rich.table import Column, Table

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.editing.change import Change, apply
from jaxinterp.editing.places import check_layers
from jaxinterp.editing.protocol.case import CHANGED, KINDS, Case
from jaxinterp.editing.protocol.columns import SHORT, columns_of
from jaxinterp.editing.protocol.questions import Says, known_facts, says
from jaxinterp.facts.facts import FactSet
from jaxinterp.facts.spelling import same_text
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.report.shown import Part, Shown, probability_shown
from jaxinterp.studies.editing.config import EditingConfig
from jaxinterp.studies.editing.posed import Posed, facts_of
from jaxinterp.studies.editing.ways import WAYS, Tools

ASKED_ABOUT = 300  # facts of neither the relation nor the subject, of which it is asked whether the model knows them


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class EditedFact(Shown):
    """A change, and what was said before and after it."""

    title: str  # of the way
    case: Case  # with the questions that could be encoded
    before: Says
    after: Says
    change: Change
    model: LanguageModel  # with the change

    def __repr__(self) -> str:
        request = self.case.request
        return f"EditedFact({self.title}: {request.prompt!r} gets {request.new!r} instead of {request.old!r})"

    def parts(self) -> Sequence[Part]:
        """A line for the edit, a table of questions, and the kinds that have none."""
        request = self.case.request
        table = Table(
            "question",
            Column("prompt", overflow="fold"),
            Column("right after the edit", overflow="fold"),
            Column("P before", justify="right"),
            Column("P after", justify="right"),
            "before",
            "after",
        )
        rows = zip(
            self.case.probes,
            self.before.log_p_N,
            self.after.log_p_N,
            self.before.right_N,
            self.after.right_N,
            strict=True,
        )
        for probe, log_p, log_p_after, right, right_after in rows:
            shown = [probability_shown(float(np.exp(value))) for value in (log_p, log_p_after)]
            marks = ["right" if one else "other" for one in (right, right_after)]
            table.add_row(probe.kind.replace("_", " "), probe.prompt, probe.expected.strip(), *shown, *marks)
        missing = [
            kind.replace("_", " ") for kind in KINDS if not any(probe.kind == kind for probe in self.case.probes)
        ]
        changed = ", ".join(CHANGED).replace("_", " ")
        lines: list[Part] = [f"{self.title}: {request.prompt!r} gets {request.new!r} instead of {request.old!r}", table]
        lines.append(f"right: greedy generation begins with the answer. To change: {changed}; the others are to stay.")
        if missing:
            lines.append(f"no questions of the kinds {', '.join(missing)}")
        return lines

    def to_json(self) -> dict:
        """Requests, questions and columns, without NaN."""
        columns = columns_of(self.before, self.after, self.case.probes)
        return {
            "way": self.title,
            "prompt": self.case.request.prompt,
            "old": self.case.request.old,
            "new": self.case.request.new,
            "model": self.change.model,
            "edited": self.change.edited,
            "questions": [
                {
                    "kind": probe.kind,
                    "prompt": probe.prompt,
                    "expected": probe.expected,
                    "p_before": float(np.exp(self.before.log_p_N[number])),
                    "p_after": float(np.exp(self.after.log_p_N[number])),
                    "right_before": bool(self.before.right_N[number]),
                    "right_after": bool(self.after.right_N[number]),
                }
                for number, probe in enumerate(self.case.probes)
            ],
            "columns": {name: value for name, value in columns.items() if value == value},
            "short": {short: name for name, short in SHORT.items() if name in columns},
        }


def edited_fact(
    model: LanguageModel, relation: str, subject: str, new: str, way: str, config: EditingConfig
) -> EditedFact:
    """Gives a fact another answer.

    Args:
      model: a causal one; it stays as it is.
      relation, subject: of a fact of `config.facts`.
      new: the answer, without a space before it.
      way: a name of `jaxinterp.studies.editing.ways.WAYS`.
      config: settings, and how many questions of each kind are asked.
    Raises:
      UserError: if the way, the relation or the subject is unknown, the model does not know the fact, or as `edit`.
    """
    if way not in WAYS:
        raise unknown("way to edit", way, WAYS)
    check_layers(model, config.layers or (0,))
    facts = facts_of(model, config.facts)
    index = _index(facts, relation, subject)
    if not new.strip():
        raise UserError(f"the new answer of {subject!r} is empty; give it")
    true = {
        same_text(f.answer)
        for f in facts.facts
        if f.relation == relation and same_text(f.subject) == same_text(subject)
    }
    if same_text(new.strip()) in true:
        raise UserError(f"{new.strip()!r} is an answer of {subject!r} already; give another one")
    known_N = _known(model, facts, index, config.seed)
    if not known_N[index]:
        old = facts.facts[index].answer
        raise UserError(
            f"the model does not answer {facts.prompt(index, 0)!r} with {old!r}, so that there is no such fact to edit"
        )
    posed = Posed(model, facts, known_N, {index: new.strip()}, config)
    change = WAYS[way].make(WAYS[way], Tools(posed), model, [0])
    edited = apply(change, model)
    asked = posed.prepared[0]
    case = dataclasses.replace(posed.cases[0], probes=asked.probes)
    return EditedFact(WAYS[way].title, case, posed.before(0), says(edited, asked), change, edited)


def _index(facts: FactSet, relation: str, subject: str) -> int:
    if relation not in facts.relation:
        raise unknown("relation", relation, facts.relation)
    own = [index for index, fact in enumerate(facts.facts) if fact.relation == relation]
    found = [index for index in own if same_text(facts.facts[index].subject) == same_text(subject)]
    if not found:
        raise unknown(f"subject of {relation}", subject, [facts.facts[index].subject for index in own])
    return found[0]


def _known(model: LanguageModel, facts: FactSet, index: int, seed: int) -> np.ndarray:
    """Which facts near the edited one, and some others, the model knows; the rest is not asked about."""
    own = facts.facts[index]
    near = [n for n, fact in enumerate(facts.facts) if own.relation == fact.relation or own.subject == fact.subject]
    others = np.random.default_rng(seed).permutation(len(facts))[:ASKED_ABOUT].tolist()
    chosen = sorted({*near, *others})
    part = dataclasses.replace(facts, facts=tuple(facts.facts[n] for n in chosen))
    known_N = np.zeros(len(facts), bool)
    known_N[chosen] = known_facts(model, part)
    return known_N
