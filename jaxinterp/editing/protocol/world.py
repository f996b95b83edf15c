"""Cases out of a set of facts: which facts are edited to which answers, and what is asked about each edit."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Bool

from jaxinterp.base.errors import UserError
from jaxinterp.editing.protocol.case import Case, Probe, case
from jaxinterp.editing.protocol.structure import Structure, noun_phrase, structure
from jaxinterp.editing.request import requests_of
from jaxinterp.facts.facts import SUBJECT, FactSet, relation_rng, subject_place
from jaxinterp.facts.spelling import same_text
from jaxinterp.models.tokenizers import TextTokenizer


def drawn_answers(
    facts: FactSet,
    known: Bool[np.ndarray, " N"],
    n: int,
    seed: int,
    tokenizer: TextTokenizer | None = None,
) -> dict[int, str]:
    """Facts that the model knows, each with another answer of its relation, drawn by a seed.

    Relations take turns, so that none makes up most of the edits. The new answer is drawn from the distinct answers of
    the relation without those that are true of the subject; of the others, those that begin with another token than the
    old one are preferred, since of two answers with one beginning the first token says nothing.

    Args:
      facts: as for the model.
      known: of each fact, whether the model answers it.
      n: how many facts.
      seed: of the draws; those of a relation do not depend on other relations.
      tokenizer: of the model, by which answers have tokens; answers with words that it does not know are not drawn.
        None: a token is a word.
    Returns:
      Index of the fact -> its new answer.
    Raises:
      UserError: if `known` is not of these facts, n is below 1, or there are fewer such facts.
    """
    _check_known(facts, known)
    if n < 1:
        raise UserError(f"the number of edits must be at least 1, got {n}")
    true, first = _true_answers(facts), _first_tokens(facts, tokenizer)
    queues = []
    for name, own in facts.indices().items():
        place = {i: subject_place(seed, f"edit {name}", same_text(facts.facts[i].subject)) for i in own.tolist()}
        queues.append(sorted((index for index in place if known[index]), key=place.__getitem__))
    found: dict[int, str] = {}
    for index in _in_turns(queues):
        fact = facts.facts[index]
        is_true = true[fact.relation, same_text(fact.subject)]
        others = [answer for answer in first[fact.relation] if same_text(answer) not in is_true]
        own_first = first[fact.relation].get(fact.answer)
        apart = [answer for answer in others if first[fact.relation][answer] != own_first]
        if others:
            rng = relation_rng(seed, fact.relation, f"new answer of {fact.subject}")
            found[index] = str(rng.choice(apart or others))
        if len(found) == n:
            return found
    raise UserError(f"the model knows {len(found)} facts that could get another answer, fewer than {n}; ask for fewer")


def _first_tokens(facts: FactSet, tokenizer: TextTokenizer | None) -> dict[str, dict[str, object]]:
    """Relation -> answer -> its first token; without answers that have unknown words."""
    found: dict[str, dict[str, object]] = {}
    for number, fact in enumerate(facts.facts):
        own = found.setdefault(fact.relation, {})
        if fact.answer in own:
            continue
        if tokenizer is None:
            own[fact.answer] = fact.answer.split()[0]
            continue
        ids = tokenizer.encode(facts.text(number, 0).answer)
        if ids and (tokenizer.unk is None or tokenizer.unk not in ids):
            own[fact.answer] = ids[0]
    return found


def cases_of(
    facts: FactSet,
    answers: Mapping[int, str],
    *,
    n_each: int,
    seed: int,
    known: Bool[np.ndarray, " N"],
    prompt: int = 0,
) -> list[Case]:
    """A case for each edit, with at most `n_each` probes of each kind about facts that the model knows.

    What is to stay is drawn by a seed: neighbours, other answers of the relation, other relations of the subject, and
    facts of other relations that name neither the subject nor one of the two answers. Relations that are inverses, that
    lead on from the answer, or that are made of the edited one are found in the facts (see `structure`); what is asked
    of these is not drawn, and need not be known. A fact of the subject that the edit should change is not to stay.
    The facts hold no other names of subjects, so that there are no probes of the kind "alias".

    Args:
      facts: as for the model; for a causal one, `answer_last()`.
      answers: index of the fact -> its new answer.
      n_each: most probes of a kind; paraphrases are all there.
      seed: of the draws.
      known: of each fact, whether the model answers it.
      prompt: by which everything is asked, or a relation's first one if it has fewer.
    Returns:
      Cases in the order of `answers`; `left_out` says why a kind has no probes.
    Raises:
      UserError: if `known` is not of these facts, n_each is negative, or there is no such fact or prompt.
    """
    _check_known(facts, known)
    if n_each < 0:
        raise UserError(f"n_each must be at least 0, got {n_each}")
    requests = requests_of(facts, answers, prompt)
    index = _Index(facts, known, structure(facts), prompt, n_each, seed)
    found = []
    for (number, new), request in zip(answers.items(), requests, strict=True):
        left_out: dict[str, int] = {}
        probes = [probe for make in (_stays, _inverse, _two_hop) for probe in make(index, number, new, left_out)]
        left_out["alias: the facts hold no other names of subjects"] = 1
        asked = (request.prompt, *(one.prompt for one in request.paraphrases))
        found.append(case(request, probes, generation=asked[:n_each], left_out=left_out))
    return found


@dataclasses.dataclass(frozen=True)
class _Index:
    facts: FactSet
    known: np.ndarray
    structure: Structure
    prompt: int
    n_each: int
    seed: int
    by_relation: dict[str, list[int]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    by_subject: dict[str, list[int]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    answer: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)  # (relation, subject) -> answer

    def __post_init__(self) -> None:
        for number, fact in enumerate(self.facts.facts):
            self.by_relation[fact.relation].append(number)
            self.by_subject[same_text(fact.subject)].append(number)
            self.answer.setdefault((fact.relation, same_text(fact.subject)), fact.answer)

    def drawn(self, candidates: Iterable[int], purpose: str) -> list[int]:
        """At most `n_each` of the candidates that the model knows."""
        kept = [number for number in candidates if self.known[number]]
        rng = relation_rng(self.seed, purpose, "probes")
        return [kept[place] for place in rng.permutation(len(kept))[: self.n_each]]

    def probe(self, kind: str, relation: str, subject: str, expected: str, other: str | None = None) -> Probe:
        of = self.facts.relation[relation]
        template = of.prompts[self.prompt if self.prompt < len(of.prompts) else 0]
        if template.startswith(SUBJECT) and subject.startswith("the "):  # a description, at the start of a sentence
            subject = f"T{subject[1:]}"
        text = of.text(template, subject, expected)
        compared = None if other is None else of.text(template, subject, other).answer
        return Probe(kind, text.before, text.answer, compared, text.after)


def _stays(index: _Index, number: int, new: str, left_out: dict[str, int]) -> list[Probe]:
    """What the edit is not to change."""
    facts, edited = index.facts.facts, index.facts.facts[number]
    name, (subject, old, changed) = edited.relation, (same_text(x) for x in (edited.subject, edited.answer, new))
    same = [i for i in index.by_relation[name] if same_text(facts[i].subject) != subject]
    moved = {name, *(third for first, third in index.structure.made_of if first == name)}
    chosen = {
        "neighbourhood": [i for i in same if same_text(facts[i].answer) == old],
        "same_relation": [i for i in same if same_text(facts[i].answer) not in (old, changed)],
        "same_subject": [i for i in index.by_subject[subject] if facts[i].relation not in moved],
        "other": _strangers(index, number, {subject, old, changed}, moved),
    }
    probes = []
    for kind, candidates in chosen.items():
        drawn = index.drawn(candidates, f"{kind} {name} {subject}")
        if not drawn:
            left_out[f"{kind}: no such fact that the model knows"] = 1
        compared = new if kind in ("neighbourhood", "same_relation") else None
        probes += [index.probe(kind, facts[i].relation, facts[i].subject, facts[i].answer, compared) for i in drawn]
    return probes


def _strangers(index: _Index, number: int, names: set[str], moved: set[str]) -> list[int]:
    """Known facts that have no relation and no name in common with the edited one; a few, of all relations."""
    inverse = index.structure.inverses.get(index.facts.facts[number].relation)
    others = [name for name in index.by_relation if name not in moved and name != inverse]
    found = []
    for name in others:
        known = [i for i in index.by_relation[name] if index.known[i]]
        rng = relation_rng(index.seed, name, f"others of {number}")
        drawn = [known[place] for place in rng.permutation(len(known))[: index.n_each + len(names)]]
        pairs = [(i, index.facts.facts[i]) for i in drawn]
        apart = [i for i, fact in pairs if not names & {same_text(fact.subject), same_text(fact.answer)}]
        found += apart[: index.n_each]
    return found


def _inverse(index: _Index, number: int, new: str, left_out: dict[str, int]) -> list[Probe]:
    fact = index.facts.facts[number]
    inverse = index.structure.inverses.get(fact.relation)
    if inverse is None:
        left_out["inverse: the relation has none"] = 1
        return []
    before = index.answer.get((inverse, same_text(new)))
    return [index.probe("inverse", inverse, new, fact.subject, before)]


def _two_hop(index: _Index, number: int, new: str, left_out: dict[str, int]) -> list[Probe]:
    """The new answer's relations, asked by a relation of the subject that is made of both, or by a description."""
    fact = index.facts.facts[number]
    old = fact.answer

    def values(relation: str) -> tuple[str, str] | None:
        pair = (index.answer.get((relation, same_text(new))), index.answer.get((relation, same_text(old))))
        return None if None in pair or same_text(pair[0]) == same_text(pair[1]) else pair

    probes = []
    for (first, third), second in index.structure.made_of.items():
        if first == fact.relation and (pair := values(second)):
            probes.append(index.probe("two_hop", third, fact.subject, *pair))
    phrase = noun_phrase(index.facts, fact.relation, fact.subject)
    for second in index.structure.hops.get(fact.relation, ()) if phrase else ():
        if pair := values(second):
            probes.append(index.probe("two_hop", second, phrase, *pair))
    if not probes:
        left_out["two_hop: the answers are subjects of no relation, or no prompt describes them"] = 1
    return probes[: index.n_each]


def _true_answers(facts: FactSet) -> Mapping[tuple[str, str], set[str]]:
    """(relation, subject) -> all its answers."""
    found: dict[tuple[str, str], set[str]] = {}
    for fact in facts.facts:
        found.setdefault((fact.relation, same_text(fact.subject)), set()).add(same_text(fact.answer))
    return found


def _in_turns(queues: Iterable[list[int]]) -> Iterable[int]:
    """The first of each queue, then the second of each, and so on."""
    left = [list(reversed(queue)) for queue in queues]
    while any(left):
        for queue in left:
            if queue:
                yield queue.pop()


def _check_known(facts: FactSet, known: np.ndarray) -> None:
    if len(known) != len(facts):
        raise UserError(f"`known` says of {len(known)} facts whether they are known, but the set has {len(facts)}")
