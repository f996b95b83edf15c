"""LAMA (Petroni et al. 2019): facts with a template a relation (T-REx) or with sentences of their own (ConceptNet)."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from jaxinterp.base.errors import UserError
from jaxinterp.facts.checks import checked
from jaxinterp.facts.facts import ANSWER, SUBJECT, Fact, FactSet, Relation
from jaxinterp.facts.readers.lines import (
    field,
    json_lines,
    name_field,
    numbered,
    template,
    text_field,
    with_suffix,
)

TEMPLATES = "relations.jsonl"
MASK = "[MASK]"


def read_lama(path: Path) -> FactSet:
    """The facts of a LAMA file, or of all LAMA files in a folder.

    A line has `obj_label` (the answer) and `sub_label`, or `sub` where there is none. It belongs to the relation
    `predicate_id`, or else to the one that the file is named after, whose template (the subject at [X], the answer at
    [Y]) is in `relations.jsonl` beside the file or one folder up. A line without such a template must have
    `masked_sentences`: one sentence with [MASK] once and the subject once, as whole words. That sentence fits no other
    subject, so that it is a relation of its own, named after the file and the fact's number in it; its domain is
    `pred`, if the line has it, or the file's name.

    Besides what `checked` drops, `dropped` counts lines with "several masked sentences", a "sentence without one
    [MASK]", a "subject not in its sentence" (all of SQuAD), and a "subject several times in its sentence".

    Raises:
      UserError: if nothing can be used, templates are missing, or a line is broken (with the line).
    """
    files = [path] if path.is_file() else [file for file in with_suffix(path, ".jsonl") if file.name != TEMPLATES]
    if not files:
        raise UserError(f"{path} has no files *.jsonl of LAMA, as its folder TREx has; give a file or such a folder")
    templates = _templates(files[0].parent)
    relations: dict[str, Relation] = {}
    candidates: list[Fact] = []
    dropped: Counter[str] = Counter()
    for file in files:
        for number, (place, record) in enumerate(json_lines(file), start=1):
            answer = text_field(record, "obj_label", place)
            subject = text_field(record, "sub_label" if "sub_label" in record else "sub", place)
            name = name_field(record, "predicate_id", place) if "predicate_id" in record else file.stem
            if name in templates:
                relations.setdefault(name, Relation(name, (templates[name],), domain="LAMA", source=file.name))
            elif "masked_sentences" in record:
                prompt, reason = _own_template(record, subject, place)
                if prompt is None:
                    dropped[reason] += 1
                    continue
                name = f"{file.stem}:{number}"
                domain = name_field(record, "pred", place) if "pred" in record else file.stem
                relations[name] = Relation(name, (prompt,), domain, source=file.name)
            else:
                raise UserError(
                    f"{place}: no template for the relation {name!r}: it is not in {TEMPLATES} beside the file or one "
                    "folder up, and the line has no masked_sentences; add its template there"
                )
            candidates.append(Fact(name, subject, answer))
    if not candidates:
        reasons = ", ".join(f"{count} times {reason}" for reason, count in dropped.items())
        raise UserError(f"{path} has no fact that can be used: {reasons}; give facts whose sentences name the subject")
    ordered = [relations[name] for name in numbered(relations.keys() & templates.keys())]
    ordered += [relation for name, relation in relations.items() if name not in templates]
    facts = checked(ordered, candidates, dropped=dropped)
    # A sentence whose only fact went is no relation any more.
    left = {fact.relation for fact in facts.facts} | templates.keys()
    return FactSet(tuple(one for one in facts.relations if one.name in left), facts.facts, facts.dropped)


def _templates(folder: Path) -> Mapping[str, str]:
    for file in (folder / TEMPLATES, folder.parent / TEMPLATES):
        if file.is_file():
            break
    else:
        return {}
    templates: dict[str, str] = {}
    for place, record in json_lines(file):
        name = name_field(record, "relation", place)
        if name in templates:
            raise UserError(f"{place}: a second template of the relation {name!r}; LAMA has one, remove the other")
        templates[name] = template(text_field(record, "template", place), place, subject="[X]", answer="[Y]")
    return templates


def _own_template(record: Mapping[str, object], subject: str, place: str) -> tuple[str | None, str]:
    """The line's sentence as a template, or None and the reason why there is none."""
    sentences = field(record, "masked_sentences", list, place)
    if not all(isinstance(sentence, str) for sentence in sentences):
        raise UserError(f"{place}: the field 'masked_sentences' must be a list of strings")
    if len(sentences) > 1:
        return None, "several masked sentences"
    sentence = "".join(sentences)
    if sentence.count(MASK) != 1:
        return None, "sentence without one [MASK]"
    matches = list(re.finditer(rf"(?<!\w){re.escape(subject)}(?!\w)", sentence)) if subject else []
    if len(matches) != 1:
        return None, "subject several times in its sentence" if matches else "subject not in its sentence"
    start, end = matches[0].span()
    return (sentence[:start] + SUBJECT + sentence[end:]).replace(MASK, ANSWER), ""
