"""What a set of facts says of its own relations: which are inverses, and which lead on to which.

Nothing is declared by hand: relations are compared by their facts. Texts are compared as by `same_text`.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from jaxinterp.facts.facts import SUBJECT, FactSet
from jaxinterp.facts.spelling import same_text

NEARLY = 0.9  # share of the facts by which two relations are inverses, or one is made of two others
LEADS_ON = 0.8  # share of a relation's answers that are subjects of another; fewer may be chance ("BRA" is an airport)
LEAST = 5  # facts that say something of two relations
_NOUN = re.compile(r"The (.*) is")


class Structure(NamedTuple):
    """How the relations of a fact set hang together."""

    inverses: Mapping[str, str]  # A -> B: (s, a) of A is (a, s) in B, and the other way round
    hops: Mapping[str, tuple[str, ...]]  # A -> relations of which A's answers are subjects, but for its inverse
    made_of: Mapping[tuple[str, str], str]  # (A, C) -> B: C of a subject is B of A's answer for it


def structure(facts: FactSet) -> Structure:
    """How the relations of a fact set hang together, by counting.

    A and B are inverses if at least `NEARLY` of the facts (s, a) of A whose answer is a subject of B are (a, s) there,
    these are at least half of A and `LEAST`, and the same holds from B to A. A leads on to B if at least `LEADS_ON` of
    its facts have an answer that is a subject of B; numbers name nothing and do not. C is made of A and then B if at
    least `NEARLY` of the facts that can say so do, and they are at least `LEAST`.

    What follows by other reasons is not seen: that a country's subregion says what its continent is, say.
    """
    answers = _answers(facts)
    meets = {
        (one, other): sum(answer in answers[other] for answer in answers[one].values())
        for one in answers
        for other in answers
        if one != other
    }
    mirrored = {
        pair for pair, n in meets.items() if n >= LEAST and 2 * n >= len(answers[pair[0]]) and _mirrors(answers, *pair)
    }
    inverses = {one: other for one, other in sorted(mirrored) if (other, one) in mirrored}
    hops = {
        one: tuple(
            other
            for other in answers
            if other != one
            and inverses.get(one) != other
            and meets[one, other] >= max(LEAST, LEADS_ON * len(answers[one]))
            and not _are_numbers(answers[one])
        )
        for one in answers
    }
    made_of = {
        (one, third): other
        for (one, other), n in meets.items()
        if n >= LEAST and not _are_numbers(answers[one]) and inverses.get(one) != other
        for third in answers
        if third != one and _composed(answers, one, other, third)
    }
    return Structure(inverses, hops, made_of)


def noun_phrase(facts: FactSet, relation: str, subject: str) -> str | None:
    """What names a relation's answer without saying it, "the capital of Peru", out of a prompt "The … is".

    Returns:
      None if the relation has no such prompt.
    """
    for prompt in facts.relation[relation].prompts:
        if (found := _NOUN.fullmatch(prompt)) and SUBJECT in found[1]:
            return f"the {found[1]}".replace(SUBJECT, subject)
    return None


def _answers(facts: FactSet) -> dict[str, dict[str, str]]:
    """Relation -> subject -> its first answer."""
    found: dict[str, dict[str, str]] = {}
    for fact in facts.facts:
        found.setdefault(fact.relation, {}).setdefault(same_text(fact.subject), same_text(fact.answer))
    return found


def _are_numbers(answers: Mapping[str, str]) -> bool:
    return 2 * sum(answer.isdigit() for answer in answers.values()) > len(answers)


def _mirrors(answers: Mapping[str, Mapping[str, str]], one: str, other: str) -> bool:
    back = [answers[other][a] == s for s, a in answers[one].items() if a in answers[other]]
    return sum(back) >= NEARLY * len(back)


def _composed(answers: Mapping[str, Mapping[str, str]], one: str, other: str, third: str) -> bool:
    shared = answers[one].keys() & answers[third].keys()
    if len(shared) < LEAST:
        return False
    agree = [answers[other][a] == answers[third][s] for s in shared if (a := answers[one][s]) in answers[other]]
    return len(agree) >= LEAST and sum(agree) >= NEARLY * len(agree)
