"""Facts, relations with their prompts, and sets of facts."""

import dataclasses
import functools
import hashlib
import itertools
import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.facts.spelling import same_text, space_between

SUBJECT, ANSWER = "{subject}", "{answer}"
SPACES = {"space": " ", "nothing": ""}
JOINED = ("auto", *SPACES)


class Text(NamedTuple):
    """A text with an answer in it: the three parts, one after the other, are the text."""

    before: str
    answer: str
    after: str


@dataclasses.dataclass(frozen=True)
class Relation:
    """A relation and the prompts that ask for it.

    A prompt is a template with "{subject}" once. "{answer}" may stand anywhere in it, at most once, and the text around
    it is taken as it stands. Without it, the answer follows at the end, after one space, or after none in a script that
    is written without spaces (see `joined`), and a full stop closes the sentence. Other braces are plain text.
    """

    name: str
    prompts: tuple[str, ...]  # "The capital of {subject} is" or "{answer} is the capital of {subject} ."
    domain: str  # what its subjects are, e.g. "countries"
    source: str = ""  # the package (or file) that its answers come from
    # What a prompt without "{answer}" has before its answer. auto: a space, or nothing after a character of a script
    # without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan) or after white space
    joined: Literal["auto", "space", "nothing"] = "auto"
    closing: str = "."  # what such a prompt has after its answer

    def __post_init__(self) -> None:
        if not self.prompts:
            raise UserError(f"relation {self.name!r} has no prompt; give it at least one, with {SUBJECT} in it")
        for prompt in self.prompts:
            n_subjects, n_answers = prompt.count(SUBJECT), prompt.count(ANSWER)
            if n_subjects != 1 or n_answers > 1:
                raise UserError(
                    f"prompt {prompt!r} of relation {self.name!r} has {n_subjects} times {SUBJECT} and {n_answers} "
                    f"times {ANSWER}; write the subject once, and the answer once or not at all (it then comes last)"
                )
        if self.joined not in JOINED:
            raise unknown("relation.joined", self.joined, JOINED)

    def text(self, prompt: str, subject: str, answer: str) -> Text:
        """A prompt of the relation, filled; see `FactSet.text`."""
        # Divided first: a subject may contain the mark of the answer, and any other brace.
        before, mark, after = prompt.partition(ANSWER)
        before, after = before.replace(SUBJECT, subject), after.replace(SUBJECT, subject)
        if not mark:
            before += SPACES[self.joined] if self.joined in SPACES else space_between(before, answer)
            after = self.closing
        if before.endswith(" "):
            before, answer = before[:-1], f" {answer}"
        return Text(before, answer, after)


@dataclasses.dataclass(frozen=True)
class Fact:
    """One answer: (subject, relation) -> answer."""

    relation: str
    subject: str
    answer: str


@dataclasses.dataclass(frozen=True)
class FactSet:
    """Relations, their facts, and how many candidates were dropped on the way, by reason."""

    relations: tuple[Relation, ...]
    facts: tuple[Fact, ...]
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.facts:
            raise UserError(
                "the fact set is empty: no fact is left; check the relations and filters that were asked for"
            )
        known = {relation.name for relation in self.relations}
        if missing := {fact.relation for fact in self.facts} - known:
            raise unknown("relation", min(missing), known)

    def __len__(self) -> int:
        return len(self.facts)

    @functools.cached_property
    def relation(self) -> Mapping[str, Relation]:
        """The relations by name."""
        return {relation.name: relation for relation in self.relations}

    def select(self, *, relations: Sequence[str] = (), domains: Sequence[str] = ()) -> "FactSet":
        """The facts of the named relations and domains; an empty sequence keeps all.

        Raises:
          UserError: if a name is unknown, or nothing is left.
        """
        known_domains = {relation.domain for relation in self.relations}
        for name in relations:
            if name not in self.relation:
                raise unknown("relation", name, self.relation)
        for name in domains:
            if name not in known_domains:
                raise unknown("domain", name, known_domains)
        kept = tuple(
            relation
            for relation in self.relations
            if (not relations or relation.name in relations) and (not domains or relation.domain in domains)
        )
        names = {relation.name for relation in kept}
        return FactSet(kept, tuple(fact for fact in self.facts if fact.relation in names), self.dropped)

    def digest(self) -> str:
        """SHA-256 over relations, prompts and facts: equal for equal sets."""
        relations = [(r.name, r.prompts, *_uncommon(r)) for r in self.relations]
        content = [relations, [dataclasses.astuple(fact) for fact in self.facts]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def text(self, fact: int, prompt: int) -> Text:
        """The text of a query in three parts, which make the sentence when they are put one after the other.

        A single space before the answer is part of the answer, as tokenizers have it.

        Args:
          fact: index into `facts`.
          prompt: index into the prompts of the fact's relation.
        """
        queried = self.facts[fact]
        relation = self.relation[queried.relation]
        return relation.text(relation.prompts[prompt], queried.subject, queried.answer)

    def prompt(self, fact: int, prompt: int) -> str:
        """The text before the answer and its space; empty where the answer comes first. See `text`."""
        return self.text(fact, prompt).before

    def answer_last(self) -> "FactSet":
        """The prompts for a causal model, those after whose answer nothing but spaces and punctuation comes.

        The text after the answer is cut off: a causal model does not see it, and tokens of it might merge with those
        of the answer ("Washington, D.C."). Relations that have no such prompt go, and their facts with them. `dropped`
        counts the prompts ("prompt whose answer does not come last", and "prompt that is another one up to its answer":
        a causal model cannot tell them apart, so that the first one stands for both) and the facts ("fact without a
        usable prompt").

        Raises:
          UserError: if no fact is left.
        """
        kept, n_inside, n_repeated = [], 0, 0
        for relation in self.relations:
            n_last = sum(_ends_in_answer(relation, prompt) for prompt in relation.prompts)
            n_inside += len(relation.prompts) - n_last
            if (cut := _up_to_answer(relation)) is not None:
                n_repeated += n_last - len(cut.prompts)
                kept.append(cut)
        names = {relation.name for relation in kept}
        facts = tuple(fact for fact in self.facts if fact.relation in names)
        if not facts:
            raise UserError(
                f"no prompt of the {len(self.relations)} relations has its answer last, which a causal model needs; "
                "use prompts that end in the answer, or a bidirectional model"
            )
        dropped = _counted(
            self.dropped,
            {
                "prompt whose answer does not come last": n_inside,
                "prompt that is another one up to its answer": n_repeated,
                "fact without a usable prompt": len(self) - len(facts),
            },
        )
        return FactSet(tuple(kept), facts, dropped)

    def limited(self, n: int, seed: int = 0) -> "FactSet":
        """At most `n` facts of each relation, drawn by `seed`; 0 keeps all.

        Subjects stand in one order for all relations, and each relation keeps its facts about the first ones: so the
        facts that are left are about few subjects, which have several relations in common as before. `dropped` counts
        the others as "above the limit". The draw in a relation does not depend on other relations.

        Raises:
          UserError: if `n` or `seed` is negative.
        """
        _check_not_negative(limit=n, seed=seed)
        if n == 0:
            return self
        place = [subject_place(seed, "limit", same_text(fact.subject)) for fact in self.facts]
        indices = [sorted(own.tolist(), key=place.__getitem__)[:n] for own in self.indices().values()]
        facts = tuple(self.facts[index] for index in sorted(itertools.chain(*indices)))
        return FactSet(self.relations, facts, _counted(self.dropped, {"above the limit": len(self) - len(facts)}))

    def queries(self, prompts: int = 0, seed: int = 0) -> Int[np.ndarray, "N 2"]:
        """All queries, rows (fact index, prompt index), in order.

        Args:
          prompts: at most so many prompts per fact, drawn for each fact; 0 takes all.
          seed: of the draw; the rows of a relation do not depend on the other relations' facts.
        Raises:
          UserError: if `prompts` or `seed` is negative.
        """
        _check_not_negative(prompts=prompts, seed=seed)
        rows = []
        for name, own in self.indices().items():
            n_prompts = len(self.relation[name].prompts)
            order = np.argsort(relation_rng(seed, name, "queries").random((len(own), n_prompts)), axis=1)
            drawn = np.sort(order[:, : prompts or n_prompts], axis=1)
            rows.append(np.stack([np.broadcast_to(own[:, None], drawn.shape), drawn], axis=-1).reshape(-1, 2))
        queries = np.concatenate(rows)
        return queries[np.lexsort((queries[:, 1], queries[:, 0]))]

    def indices(self) -> dict[str, Int[np.ndarray, "N"]]:
        """Indices of each relation's facts; relations without any are left out."""
        by_relation: dict[str, list[int]] = {relation.name: [] for relation in self.relations}
        for index, fact in enumerate(self.facts):
            by_relation[fact.relation].append(index)
        return {name: np.array(indices, int) for name, indices in by_relation.items() if indices}


def _ends_in_answer(relation: Relation, prompt: str) -> bool:
    # The subject is no punctuation: it stands before such an answer, so that there is something to be read.
    after = relation.text(prompt, "subject", "answer").after
    return all(sign.isspace() or unicodedata.category(sign).startswith("P") for sign in after)


def _up_to_answer(relation: Relation) -> Relation | None:
    """The relation with the prompts that end in the answer, up to there; None if it has none."""
    distinct: dict[Text, str] = {}
    for prompt in relation.prompts:
        if _ends_in_answer(relation, prompt):
            head, mark, _ = prompt.partition(ANSWER)
            text = relation.text(prompt, SUBJECT, ANSWER)
            distinct.setdefault(text._replace(after=""), head + mark)
    return dataclasses.replace(relation, prompts=tuple(distinct.values()), closing="") if distinct else None


def _uncommon(relation: Relation) -> tuple[str, ...]:
    """The way its texts are put together, if it is not the usual one."""
    chosen = (relation.joined, relation.closing)
    return () if chosen == (Relation.joined, Relation.closing) else chosen


def subject_place(seed: int, purpose: str, subject: str) -> bytes:
    """Sorts subjects, as `same_text` spells them, in the order of a seed, in which further ones do not move others.

    Draws for different purposes must not pick the same subjects.
    """
    return hashlib.sha256(f"{seed} {purpose}{subject}".encode()).digest()


def relation_rng(seed: int, relation: str, purpose: str = "") -> np.random.Generator:
    """A stream of each relation's own; draws for different purposes must not pick the same things."""
    return np.random.default_rng([seed, *relation.encode(), *purpose.encode()])


def _counted(dropped: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    reasons = [*dropped, *(reason for reason, number in more.items() if number and reason not in dropped)]
    return {reason: dropped.get(reason, 0) + more.get(reason, 0) for reason in reasons}


def _check_not_negative(**values: int) -> None:
    for name, value in values.items():
        if value < 0:
            raise UserError(f"{name} must be at least 0, got {value}")
