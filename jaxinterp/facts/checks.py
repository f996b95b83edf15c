"""Candidates become facts here: those that can be asked and answered without ambiguity."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.tables import is_control
from jaxinterp.facts.facts import ANSWER, SUBJECT, Fact, FactSet, Relation
from jaxinterp.facts.spelling import gives_away, same_text

SPACES = "\n\r\t\u2028\u2029"  # control characters that stand in texts


def checked(
    relations: Sequence[Relation],
    candidates: Iterable[Fact],
    *,
    dropped: Mapping[str, int] | None = None,
    ambiguous: Literal["drop", "keep"] = "drop",
) -> FactSet:
    """A FactSet of the candidates that can be asked and answered without ambiguity; the rest is counted by reason.

    Dropped: "empty" (no subject or answer), "control character" (in one of them), "duplicate" (the same fact again),
    "ambiguous subject" (one subject, several answers in one relation: all of them go), "answer inside its prompt" (see
    `spelling.gives_away`, before or after the answer's place in any of the relation's prompts). Texts are compared as
    by `spelling.same_text`, and kept as they are; of equal spellings the first is kept.

    Args:
      relations: all relations that may occur.
      candidates: facts in any order.
      dropped: counts of what the caller left out already.
      ambiguous: "keep" makes a fact of each answer of an ambiguous subject.
    Raises:
      UserError: if a candidate's relation is unknown, a relation's name or prompt has a control character, or nothing
        is left.
    """
    for relation in relations:
        _refuse_control(relation)
    by_name = {relation.name: relation for relation in relations}
    counts = dict(dropped or {})

    def drop(reason: str, number: int = 1) -> None:
        counts[reason] = counts.get(reason, 0) + number

    answers: dict[tuple[str, str], dict[str, Fact]] = {}
    for fact in candidates:
        if fact.relation not in by_name:
            raise unknown("relation", fact.relation, by_name)
        subject, answer = same_text(fact.subject), same_text(fact.answer)
        if not subject or not answer:
            drop("empty")
            continue
        if has_control(fact.subject, SPACES) or has_control(fact.answer, SPACES):
            drop("control character")
            continue
        known = answers.setdefault((fact.relation, subject), {})
        if answer in known:
            drop("duplicate")
        else:
            known[answer] = fact
    facts = []
    plain = {relation.name: _plain_prompts(relation) for relation in relations}
    for (name, subject), known in answers.items():
        if len(known) > 1 and ambiguous == "drop":
            drop("ambiguous subject", len(known))
            continue
        relation = by_name[name]
        filled = None
        if plain[name] is not None and subject.isascii():
            filled = [prompt.replace(SUBJECT, subject.casefold()) for prompt in plain[name]]
        for answer, fact in known.items():
            # Nearly no text of plain letters holds its answer, whatever stands around it: a few facts are looked at.
            if filled is not None and answer.isascii() and not any(answer.casefold() in text for text in filled):
                facts.append(fact)
                continue
            texts = [relation.text(prompt, fact.subject, fact.answer) for prompt in relation.prompts]
            if gives_away([part for text in texts for part in (text.before, text.after)], fact.answer):
                drop("answer inside its prompt")
            else:
                facts.append(fact)
    order = {relation.name: index for index, relation in enumerate(relations)}
    facts.sort(key=lambda fact: (order[fact.relation], fact.subject, fact.answer))
    return FactSet(tuple(relations), tuple(facts), counts)


def has_control(text: str, allowed: str = "") -> bool:
    """Whether a text has characters that command a terminal, or are none."""
    return not text.isprintable() and any(is_control(c) and c not in allowed for c in text)


def _refuse_control(relation: Relation) -> None:
    if has_control(relation.name):
        raise UserError(f"the relation {relation.name!r} has a control character in its name; take it out")
    for prompt in relation.prompts:
        if has_control(prompt, SPACES):
            raise UserError(f"a prompt of {relation.name} has a control character: {prompt!r}; take it out")


def _plain_prompts(relation: Relation) -> list[str] | None:
    """Its prompts without case, with something that no text has in the answer's place; None if they are not plain."""
    texts = [p.replace(ANSWER, "\0") if ANSWER in p else f"{p} \0{relation.closing}" for p in relation.prompts]
    if not all(text.isascii() and " ".join(text.split()) == text for text in texts):
        return None
    return [text.casefold() for text in texts]
