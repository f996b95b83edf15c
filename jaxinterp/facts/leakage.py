"""Leakage: the share of a set's facts that the objective has seen already, under another relation."""

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.facts.facts import Fact, FactSet
from jaxinterp.facts.spelling import same_text, same_text_caseless
from jaxinterp.facts.splits import SETS, Split


@dataclasses.dataclass(frozen=True)
class Leakage:
    """The parts of a set's facts that the objective has seen, under any relation; prompts do not matter.

    Shares lie in [0, 1]. Those of subjects, answers and pairs count each different one once, those of facts each fact.
    Texts are compared as by `spelling.same_text`, "caseless" ones as by `same_text_caseless`. Answers that only nearly
    spell each other out, such as ".fr" and "FR", are different here: see `folds.spelled_out`.
    """

    facts: int  # number of the set's facts
    subjects: float  # share of its subjects that are the subject of an objective's fact
    answers: float  # share of its answers that are the answer of an objective's fact
    answers_caseless: float
    pairs: float  # share of its (subject, answer) pairs that an objective's fact has
    pairs_caseless: float
    inverse_pairs: float  # share of its (subject, answer) pairs that an objective's fact has as (answer, subject)
    answer_clean_facts: float  # share of its facts that are clean by "answer"; see `clean`
    subject_clean_facts: float  # share of its facts that are clean by "subject"

    def to_json(self) -> dict[str, int | float]:
        """The fields by name."""
        return dataclasses.asdict(self)


def leakage(facts: FactSet, split: Split) -> dict[str, Leakage]:
    """`Leakage` of each set of the split, by name; the objective's own is 100 % by definition.

    Raises:
      UserError: if a set is empty.
    """
    seen = _facts_of(facts, split, "objective")
    subjects, answers, pairs = _subjects(seen), _answers(seen), _pairs(seen)
    folded_subjects, folded_answers, folded_pairs = _folded(subjects), _folded(answers), _folded_pairs(pairs)
    inverse = {(answer, subject) for subject, answer in pairs}
    result = {}
    for name in SETS:
        own = _facts_of(facts, split, name)
        if not own:
            raise UserError(f"the split's set {name!r} is empty, so that it has no leakage; use a split with all sets")
        is_clean = _clean(own, folded_subjects, folded_answers)
        own_answers, own_pairs = _answers(own), _pairs(own)
        result[name] = Leakage(
            facts=len(own),
            subjects=_share(_subjects(own), subjects),
            answers=_share(own_answers, answers),
            answers_caseless=_share(_folded(own_answers), folded_answers),
            pairs=_share(own_pairs, pairs),
            pairs_caseless=_share(_folded_pairs(own_pairs), folded_pairs),
            inverse_pairs=_share(own_pairs, inverse),
            answer_clean_facts=float(is_clean["answer"].mean()),
            subject_clean_facts=float(is_clean["subject"].mean()),
        )
    return result


def clean(facts: FactSet, split: Split, set_name: str) -> dict[str, Bool[np.ndarray, " N"]]:
    """Marks queries of a set that ask for something the objective has not seen; compared without case.

    Returns:
      For each row of the split's set, by kind:
        "answer": its answer was never an answer in the objective, so that its (subject, answer) pair was not there
          either. Its subject may have been.
        "subject": its subject never occurs in the objective, neither as a subject nor as an answer. Its answer may.
      Both hold at once where `&` of the two does.
    Raises:
      UserError: if there is no such set.
    """
    if set_name not in SETS:
        raise unknown("set", set_name, SETS)
    indices, place_N = np.unique(getattr(split, set_name)[:, 0], return_inverse=True)
    own, seen = [facts.facts[index] for index in indices.tolist()], _facts_of(facts, split, "objective")
    is_clean = _clean(own, _folded(_subjects(seen)), _folded(_answers(seen)))
    return {kind: of_facts[place_N] for kind, of_facts in is_clean.items()}


def _clean(own: list[Fact], seen_subjects: set[str], seen_answers: set[str]) -> dict[str, np.ndarray]:
    """For each fact; what was seen is given as `_folded` leaves it."""
    seen = seen_subjects | seen_answers
    return {
        "answer": np.array([same_text_caseless(fact.answer) not in seen_answers for fact in own], bool),
        "subject": np.array([same_text_caseless(fact.subject) not in seen for fact in own], bool),
    }


def _facts_of(facts: FactSet, split: Split, set_name: str) -> list[Fact]:
    return [facts.facts[index] for index in np.unique(getattr(split, set_name)[:, 0]).tolist()]


def _subjects(facts: Iterable[Fact]) -> set[str]:
    return {same_text(fact.subject) for fact in facts}


def _answers(facts: Iterable[Fact]) -> set[str]:
    return {same_text(fact.answer) for fact in facts}


def _pairs(facts: Iterable[Fact]) -> set[tuple[str, str]]:
    return {(same_text(fact.subject), same_text(fact.answer)) for fact in facts}


def _folded(texts: Iterable[str]) -> set[str]:
    return {same_text_caseless(text) for text in texts}


def _folded_pairs(pairs: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    return {(same_text_caseless(subject), same_text_caseless(answer)) for subject, answer in pairs}


def _share(own: set, seen: set) -> float:
    return len(own & seen) / len(own)
