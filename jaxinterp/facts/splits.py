"""Splits, which decide what facts and prompts an objective may see."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Int

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.facts.facts import FactSet, Relation, relation_rng, subject_place
from jaxinterp.facts.spelling import same_text

SETS = ("objective", "held_out_prompts", "unseen_facts", "unseen_relations")
UNSEEN_BY = ("fact", "subject")


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """The facts and prompts that the objective may use; every fact is in the language model's training data."""

    seed: int = 0  # of the split alone; independent of the training seed
    held_out_prompts: int = 1  # prompts per fact that no model is trained on (which ones is drawn for each fact)
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


def split_facts(facts: FactSet, config: SplitConfig) -> Split:
    """Deterministic split by `config.seed`; adding a relation does not move the facts of another one.

    By subject that holds for new relations about the same subjects; new subjects change how many are drawn, and so
    move those at the edge alone. Two subjects that are each other's answers, as a country and its capital are, are
    drawn as one: what is asked about the one is told by the facts about the other.

    Raises:
      UserError: if a relation is unknown, has too few prompts, or a set would be empty.
    """
    unseen_relations = config.unseen_relations or _drawn_relations(facts, config)
    for name in unseen_relations:
        if name not in facts.relation:
            raise unknown("relation", name, facts.relation, "Change split.unseen_relations.")
    subjects = _drawn_subjects(facts, config) if config.unseen_by == "subject" else frozenset()
    rows: dict[str, list[np.ndarray]] = {name: [] for name in ("training", *SETS)}
    for name, indices in facts.indices().items():
        rng = relation_rng(config.seed, name)
        trained, held_out = _split_prompts(rng, facts.relation[name], indices, config.held_out_prompts)
        rows["training"].append(trained)
        if name in unseen_relations:
            rows["unseen_relations"].append(trained)
            continue
        if config.unseen_by == "subject":
            unseen = [index for index in indices.tolist() if same_text(facts.facts[index].subject) in subjects]
        else:
            unseen = rng.permutation(indices)[: round(config.unseen_facts * len(indices))]
        rows["unseen_facts"].append(trained[np.isin(trained[:, 0], unseen)])
        rows["objective"].append(trained[~np.isin(trained[:, 0], unseen)])
        rows["held_out_prompts"].append(held_out[~np.isin(held_out[:, 0], unseen)])
    sets = {name: np.concatenate(parts) if parts else np.zeros((0, 2), int) for name, parts in rows.items()}
    for name, queries in sets.items():
        if not len(queries):
            raise UserError(
                f"the split's set {name!r} is empty for {len(facts.relations)} relations and {len(facts)} facts; "
                "use more facts or relations, or change split.unseen_facts or split.unseen_relations"
            )
    return Split(**sets)


def _drawn_relations(facts: FactSet, config: SplitConfig) -> tuple[str, ...]:
    names = sorted({fact.relation for fact in facts.facts})
    return tuple(np.random.default_rng(config.seed).permutation(names)[: config.n_unseen_relations].tolist())


def _drawn_subjects(facts: FactSet, config: SplitConfig) -> frozenset[str]:
    """The share of the subjects that comes first in an order by hash, which no other subject has a part in."""
    drawn_as = _mutual_subjects(facts)
    order = sorted(set(drawn_as.values()), key=lambda name: subject_place(config.seed, "", name))
    drawn = set(order[: round(config.unseen_facts * len(order))])
    return frozenset(subject for subject, name in drawn_as.items() if name in drawn)


def _mutual_subjects(facts: FactSet) -> dict[str, str]:
    """For each subject the one it is drawn with: (s, a) and (a, s) in the facts join s and a, and so on."""
    spelled = [(same_text(fact.subject), same_text(fact.answer)) for fact in facts.facts]
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
