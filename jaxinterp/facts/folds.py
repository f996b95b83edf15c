"""Folds over relations, so that each relation is unseen once."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.facts.facts import FactSet
from jaxinterp.facts.spelling import same_text_caseless

SHARE = 0.25  # of answers: relations that spell each other out that far stay together
# Relations of `world_facts()` whose answers spell each other out, by `spelled_out`: those of a pair that has at least
# `SHARE` stay together (a test). "Beyond the subject" matters: "Afghan" contains "AFG" (37 % of demonyms do), but so
# does "Afghanistan".
APART = (
    ("internet_domain", "iso_alpha_2", "iso_alpha_3", "language_code"),  # .dk, DK, DNK: 71, 36 and 36 %
    ("demonym", "currency", "official_language"),  # Danish, Danish Krone, Danish: 32 % and 28 %
    ("continent", "subregion"),  # Africa, Western Africa: 74 %
    # The same pairs of names the other way round: 97 %
    ("capital", "capital_of", "subdivision_country", "city_country"),
    ("element_symbol", "element_of_symbol"),
    ("atomic_number", "element_of_number", "element_group"),
    ("element_block", "crystal_structure"),
    ("state_abbreviation", "state_of_abbreviation", "subdivision_code"),
    ("currency_code", "currency_of_code"),
)


def relation_folds(
    names: Sequence[str], n_folds: int, seed: int, apart: Sequence[Sequence[str]] = ()
) -> tuple[tuple[str, ...], ...]:
    """Deals relations into folds of nearly equal size; each is in one fold, to be unseen while the others are seen.

    Groups are dealt before single relations, larger ones first, in an order drawn by `seed`, each to the smallest fold
    so far. So every fold has at least two relations wherever that is possible at all.

    Args:
      names: all relations, in any order, which does not matter.
      n_folds: number of folds, at least 2.
      seed: of the order.
      apart: groups of relations that stay together in a fold, because their answers spell each other out: no relation
        of a group is then in the objective while another one is unseen. Names that are not in `names` are left out, so
        that a constant such as `APART` also serves a choice of its relations.
    Returns:
      The folds, each sorted by name.
    Raises:
      UserError: if a relation is named twice, in `names` or in `apart`, or there are too few of them for the folds.
    """
    if n_folds < 2:
        raise UserError(f"n_folds must be at least 2, got {n_folds}: with one fold every relation would be unseen")
    if seed < 0:
        raise UserError(f"seed must be at least 0, got {seed}")
    _check_once(names, "the relations")
    _check_once([name for group in apart for name in group], "the groups of relations that stay together")
    grouped = [tuple(sorted(set(group) & set(names))) for group in apart]
    single = set(names) - {name for group in grouped for name in group}
    units = sorted([group for group in grouped if group] + [(name,) for name in single])
    if n_folds > len(units):
        raise UserError(
            f"{len(names)} relations in {len(units)} groups that stay together cannot fill {n_folds} folds; "
            f"ask for at most {len(units)} folds"
        )
    folds: list[list[str]] = [[] for _ in range(n_folds)]
    shuffled = [units[index] for index in np.random.default_rng(seed).permutation(len(units))]
    for unit in sorted(shuffled, key=len, reverse=True):
        min(folds, key=len).extend(unit)
    return tuple(tuple(sorted(fold)) for fold in folds)


def spelled_out(facts: FactSet, first: str, second: str) -> float:
    """The share of answers by which two relations spell each other out, in [0, 1].

    It is the larger one of two shares. The first is that of subjects with both relations for which one answer is the
    other one or contains it, and the shorter one does not stand in the subject already. The second is that of the first
    relation's facts (s, a) for which (a, s) is a fact of the second one. All without case, and without the dot before
    an internet domain.

    Raises:
      UserError: if a relation is unknown, or has no facts.
    """
    return _spelled_out(_answers(facts, first), _answers(facts, second))


def spelled_out_groups(facts: FactSet, names: Sequence[str], share: float = SHARE) -> tuple[tuple[str, ...], ...]:
    """The relations that spell each other out, as `apart` of `relation_folds` takes them.

    Two relations are in one group if `spelled_out` of them, in either order, is at least `share`, or if a chain of such
    pairs connects them. Relations that are in no pair are left out.

    Args:
      facts: with their answers.
      names: relations, each with facts.
      share: in (0, 1].
    Returns:
      Groups of two relations or more, each sorted by name, in the order of their first names.
    Raises:
      UserError: if a relation is unknown, has no facts, or is named twice, or the share is out of its range.
    """
    if not 0 < share <= 1:
        raise UserError(f"share must lie above 0 and at most at 1, got {share}")
    _check_once(names, "the relations")
    answers = {name: _answers(facts, name) for name in sorted(names)}
    group = {name: {name} for name in answers}
    for one, other in itertools.permutations(answers, 2):
        if group[one] is not group[other] and _spelled_out(answers[one], answers[other]) >= share:
            merged = group[one] | group[other]
            group |= dict.fromkeys(merged, merged)
    found = {tuple(sorted(members)) for members in group.values() if len(members) > 1}
    return tuple(sorted(found))


def _spelled_out(one: Mapping[str, set[str]], other: Mapping[str, set[str]]) -> float:
    """`spelled_out` of two relations' answers by subject."""
    common = one.keys() & other.keys()
    n_contained = sum(
        any(
            _tells(a, b) and min(a, b, key=len) not in subject
            for a, b in itertools.product(one[subject], other[subject])
        )
        for subject in common
    )
    pairs = [(subject, answer) for subject, answers in one.items() for answer in answers]
    n_inverse = sum(subject in other.get(answer, ()) for subject, answer in pairs)
    return max(n_contained / max(len(common), 1), n_inverse / len(pairs))


def _tells(one: str, other: str) -> bool:
    return one in other or other in one


def _answers(facts: FactSet, name: str) -> dict[str, set[str]]:
    """The answers of each subject of a relation, as they are compared."""
    if name not in facts.relation:
        raise unknown("relation", name, facts.relation)
    answers: dict[str, set[str]] = {}
    for fact in facts.facts:
        if fact.relation == name:
            subject, answer = same_text_caseless(fact.subject), same_text_caseless(fact.answer)
            answers.setdefault(subject, set()).add(answer.removeprefix("."))
    if not answers:
        raise UserError(f"relation {name!r} has no facts, so that its answers cannot be compared")
    return answers


def _check_once(names: Sequence[str], where: str) -> None:
    if repeated := {name for name in names if list(names).count(name) > 1}:
        raise UserError(f"relation {min(repeated)!r} is named twice in {where}; name each one once")
