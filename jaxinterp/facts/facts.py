"""Facts, sets of facts, and the splits that decide which of them an objective may see."""

import dataclasses
import functools
import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.facts.spelling import gives_away, same_text, space_between

SUBJECT, ANSWER = "{subject}", "{answer}"
SETS = ("objective", "held_out_prompts", "unseen_facts", "unseen_relations")
UNSEEN_BY = ("fact", "subject")
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


@dataclasses.dataclass(frozen=True)
class Fact:
    """One answer: (subject, relation) -> answer."""

    relation: str
    subject: str
    answer: str


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """Which facts and prompts the objective may use; every fact is in the language model's training data."""

    seed: int = 0  # of the split alone; independent of the training seed
    held_out_prompts: int = 1  # prompts a fact that no model is trained on (which ones is drawn for each fact)
    unseen_facts: float = 0.2  # share of what `unseen_by` names that the objective never uses, in (0, 1)
    unseen_relations: tuple[str, ...] = ()  # relations that the objective never uses; () draws `n_unseen_relations`
    n_unseen_relations: int = 2  # number of relations drawn when `unseen_relations` is empty
    # fact: the share is of each seen relation's facts, so that most of their subjects are in the objective with another
    # relation. subject: the share is of all subjects, and the objective uses no fact about them. In both,
    # unseen_relations has all facts of its relations, also those about subjects in the objective.
    unseen_by: Literal["fact", "subject"] = "fact"

    def __post_init__(self) -> None:
        check_numbers(self, "split.")
        if self.seed < 0:
            raise UserError(f"split.seed must be at least 0, got {self.seed}")
        if self.held_out_prompts < 1:
            raise UserError(f"held_out_prompts must be at least 1, got {self.held_out_prompts}")
        if not 0 < self.unseen_facts < 1:
            raise UserError(f"unseen_facts must lie between 0 and 1 (exclusive), got {self.unseen_facts}")
        if not self.unseen_relations and self.n_unseen_relations < 1:
            raise UserError(f"n_unseen_relations must be at least 1, got {self.n_unseen_relations}")
        if self.unseen_by not in UNSEEN_BY:
            raise unknown("split.unseen_by", self.unseen_by, UNSEEN_BY)


@dataclasses.dataclass(frozen=True)
class Split:
    """Queries by their role; a query is a row (fact index, prompt index) into a FactSet.

    `training` is what the language model reads. The four sets of `SETS` are what is measured:
    objective ⊂ training; held_out_prompts has the objective's facts with prompts outside training; unseen_facts and
    unseen_relations ⊂ training, with facts outside the objective. `training` and the held-out prompts of a fact do not
    depend on which facts and relations are unseen.
    """

    training: Int[np.ndarray, "N 2"]
    objective: Int[np.ndarray, "N_o 2"]
    held_out_prompts: Int[np.ndarray, "N_h 2"]
    unseen_facts: Int[np.ndarray, "N_f 2"]
    unseen_relations: Int[np.ndarray, "N_r 2"]


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
        asked = self.facts[fact]
        relation = self.relation[asked.relation]
        return _text(relation, relation.prompts[prompt], asked.subject, asked.answer)

    def prompt(self, fact: int, prompt: int) -> str:
        """The text before the answer and its space; empty where the answer comes first. See `text`."""
        return self.text(fact, prompt).before

    def answer_last(self) -> "FactSet":
        """What a causal model can be asked: only prompts after whose answer nothing but spaces and punctuation comes.

        What comes after the answer is cut off: a causal model does not see it, and tokens of it might merge with those
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

        `dropped` counts the others as "above the limit". The draw in a relation does not depend on other relations.

        Raises:
          UserError: if `n` or `seed` is negative.
        """
        _check_not_negative(limit=n, seed=seed)
        if n == 0:
            return self
        indices = [_rng(seed, name, "limit").permutation(own)[:n] for name, own in self._indices().items()]
        facts = tuple(self.facts[index] for index in sorted(np.concatenate(indices).tolist()))
        return FactSet(self.relations, facts, _counted(self.dropped, {"above the limit": len(self) - len(facts)}))

    def queries(self, prompts: int = 0, seed: int = 0) -> Int[np.ndarray, "N 2"]:
        """What can be asked: rows (fact index, prompt index), in order.

        Args:
          prompts: at most so many prompts a fact, drawn for each fact; 0 takes all.
          seed: of the draw; the rows of a relation do not depend on the other relations' facts.
        Raises:
          UserError: if `prompts` or `seed` is negative.
        """
        _check_not_negative(prompts=prompts, seed=seed)
        rows = []
        for name, own in self._indices().items():
            n_prompts = len(self.relation[name].prompts)
            order = np.argsort(_rng(seed, name, "queries").random((len(own), n_prompts)), axis=1)
            drawn = np.sort(order[:, : prompts or n_prompts], axis=1)
            rows.append(np.stack([np.broadcast_to(own[:, None], drawn.shape), drawn], axis=-1).reshape(-1, 2))
        queries = np.concatenate(rows)
        return queries[np.lexsort((queries[:, 1], queries[:, 0]))]

    def _indices(self) -> dict[str, np.ndarray]:
        """Indices of each relation's facts; relations without any are left out."""
        by_relation: dict[str, list[int]] = {relation.name: [] for relation in self.relations}
        for index, fact in enumerate(self.facts):
            by_relation[fact.relation].append(index)
        return {name: np.array(indices, int) for name, indices in by_relation.items() if indices}

    def split(self, config: SplitConfig) -> Split:
        """Deterministic split by `config.seed`; adding a relation does not move the facts of another one.

        By subject that holds for new relations about the same subjects; new subjects change how many are drawn, and so
        move those at the edge alone. Two subjects that are each other's answers, as a country and its capital are, are
        drawn as one: what is asked about the one is told by the facts about the other.

        Raises:
          UserError: if a relation is unknown, has too few prompts, or a set would be empty.
        """
        unseen_relations = config.unseen_relations or self._drawn_relations(config)
        for name in unseen_relations:
            if name not in self.relation:
                raise unknown("relation", name, self.relation, "Change split.unseen_relations.")
        subjects = self._drawn_subjects(config) if config.unseen_by == "subject" else frozenset()
        rows: dict[str, list[np.ndarray]] = {name: [] for name in ("training", *SETS)}
        for name, indices in self._indices().items():
            rng = _rng(config.seed, name)
            trained, held_out = _split_prompts(rng, self.relation[name], indices, config.held_out_prompts)
            rows["training"].append(trained)
            if name in unseen_relations:
                rows["unseen_relations"].append(trained)
                continue
            if config.unseen_by == "subject":
                unseen = [index for index in indices.tolist() if same_text(self.facts[index].subject) in subjects]
            else:
                unseen = rng.permutation(indices)[: round(config.unseen_facts * len(indices))]
            rows["unseen_facts"].append(trained[np.isin(trained[:, 0], unseen)])
            rows["objective"].append(trained[~np.isin(trained[:, 0], unseen)])
            rows["held_out_prompts"].append(held_out[~np.isin(held_out[:, 0], unseen)])
        sets = {name: np.concatenate(parts) if parts else np.zeros((0, 2), int) for name, parts in rows.items()}
        for name, queries in sets.items():
            if not len(queries):
                raise UserError(
                    f"the split's set {name!r} is empty for {len(self.relations)} relations and {len(self)} facts; "
                    "use more facts or relations, or change split.unseen_facts or split.unseen_relations"
                )
        return Split(**sets)

    def _drawn_relations(self, config: SplitConfig) -> tuple[str, ...]:
        names = sorted({fact.relation for fact in self.facts})
        return tuple(np.random.default_rng(config.seed).permutation(names)[: config.n_unseen_relations].tolist())

    def _drawn_subjects(self, config: SplitConfig) -> frozenset[str]:
        """The share of the subjects that comes first in an order by hash, which no other subject has a part in."""
        drawn_as = self._mutual_subjects()
        order = sorted(
            set(drawn_as.values()), key=lambda name: hashlib.sha256(f"{config.seed} {name}".encode()).digest()
        )
        drawn = set(order[: round(config.unseen_facts * len(order))])
        return frozenset(subject for subject, name in drawn_as.items() if name in drawn)

    def _mutual_subjects(self) -> dict[str, str]:
        """For each subject the one it is drawn with: (s, a) and (a, s) in the facts join s and a, and so on."""
        spelled = [(same_text(fact.subject), same_text(fact.answer)) for fact in self.facts]
        pairs = set(spelled)
        joined = {subject: subject for subject, _ in spelled}
        place = {subject: index for index, subject in enumerate(joined)}

        def first(subject: str) -> str:
            while joined[subject] != subject:
                joined[subject] = subject = joined[joined[subject]]
            return subject

        # The subject that comes first names them all: a relation that is added at the end does not rename a pair.
        for subject, answer in spelled:
            if (answer, subject) in pairs:
                earlier, later = sorted((first(subject), first(answer)), key=place.__getitem__)
                joined[later] = earlier
        return {subject: first(subject) for subject in joined}


def _text(relation: Relation, prompt: str, subject: str, answer: str) -> Text:
    # Divided first: a subject may contain the mark of the answer, and any other brace.
    before, mark, after = prompt.partition(ANSWER)
    before, after = before.replace(SUBJECT, subject), after.replace(SUBJECT, subject)
    if not mark:
        before += SPACES[relation.joined] if relation.joined in SPACES else space_between(before, answer)
        after = relation.closing
    if before.endswith(" "):
        before, answer = before[:-1], f" {answer}"
    return Text(before, answer, after)


def _plain_prompts(relation: Relation) -> list[str] | None:
    """Its prompts without case, with something that no text has in the answer's place; None if they are not plain."""
    texts = [p.replace(ANSWER, "\0") if ANSWER in p else f"{p} \0{relation.closing}" for p in relation.prompts]
    if not all(text.isascii() and " ".join(text.split()) == text for text in texts):
        return None
    return [text.casefold() for text in texts]


def _ends_in_answer(relation: Relation, prompt: str) -> bool:
    # The subject is no punctuation: it stands before such an answer, so that there is something to be read.
    after = _text(relation, prompt, "subject", "answer").after
    return all(sign.isspace() or unicodedata.category(sign).startswith("P") for sign in after)


def _up_to_answer(relation: Relation) -> Relation | None:
    """The relation with the prompts that end in the answer, up to there; None if it has none."""
    distinct: dict[Text, str] = {}
    for prompt in relation.prompts:
        if _ends_in_answer(relation, prompt):
            head, mark, _ = prompt.partition(ANSWER)
            asked = _text(relation, prompt, SUBJECT, ANSWER)
            distinct.setdefault(Text(asked.before, asked.answer, ""), head + mark)
    return dataclasses.replace(relation, prompts=tuple(distinct.values()), closing="") if distinct else None


def _uncommon(relation: Relation) -> tuple[str, ...]:
    """How its texts are put together, if not in the usual way."""
    chosen = (relation.joined, relation.closing)
    return () if chosen == (Relation.joined, Relation.closing) else chosen


def _rng(seed: int, relation: str, purpose: str = "") -> np.random.Generator:
    """A stream of each relation's own; draws for different purposes must not pick the same things."""
    return np.random.default_rng([seed, *relation.encode(), *purpose.encode()])


def _counted(dropped: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    reasons = [*dropped, *(reason for reason, number in more.items() if number and reason not in dropped)]
    return {reason: dropped.get(reason, 0) + more.get(reason, 0) for reason in reasons}


def _check_not_negative(**values: int) -> None:
    for name, value in values.items():
        if value < 0:
            raise UserError(f"{name} must be at least 0, got {value}")


def _split_prompts(
    rng: np.random.Generator, relation: Relation, indices: np.ndarray, n_held_out: int
) -> tuple[np.ndarray, np.ndarray]:
    n_prompts = len(relation.prompts)
    if n_held_out >= n_prompts:
        raise UserError(
            f"relation {relation.name!r} has {n_prompts} prompts, so that held_out_prompts must be at most "
            f"{n_prompts - 1}, got {n_held_out}"
        )
    order = np.argsort(rng.random((len(indices), n_prompts)), axis=1)
    queries = np.stack([np.broadcast_to(indices[:, None], order.shape), order], axis=-1)
    return queries[:, n_held_out:].reshape(-1, 2), queries[:, :n_held_out].reshape(-1, 2)


def checked(
    relations: Sequence[Relation],
    candidates: Iterable[Fact],
    *,
    dropped: Mapping[str, int] | None = None,
    ambiguous: Literal["drop", "keep"] = "drop",
) -> FactSet:
    """A FactSet of the candidates that can be asked and answered without ambiguity; the rest is counted by reason.

    Dropped: "empty" (no subject or answer), "duplicate" (the same fact again), "ambiguous subject" (one subject,
    several answers in one relation: all of them go), "answer inside its prompt" (see `spelling.gives_away`, before or
    after the answer's place in any of the relation's prompts). Texts are compared as by `spelling.same_text`, and kept
    as they are; of equal spellings the first is kept.

    Args:
      relations: all relations that may occur.
      candidates: facts in any order.
      dropped: counts of what the caller left out already.
      ambiguous: "keep" makes a fact of each answer of an ambiguous subject.
    Raises:
      UserError: if a candidate's relation is unknown, or nothing is left.
    """
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
            texts = [_text(relation, prompt, fact.subject, fact.answer) for prompt in relation.prompts]
            if gives_away([part for text in texts for part in (text.before, text.after)], fact.answer):
                drop("answer inside its prompt")
            else:
                facts.append(fact)
    order = {relation.name: index for index, relation in enumerate(relations)}
    facts.sort(key=lambda fact: (order[fact.relation], fact.subject, fact.answer))
    return FactSet(tuple(relations), tuple(facts), counts)
