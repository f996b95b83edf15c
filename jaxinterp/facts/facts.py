"""Facts, sets of facts, and the splits that decide which of them an objective may see."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from jaxinterp.errors import UserError, unknown

SETS = ("objective", "held_out_prompts", "unseen_facts", "unseen_relations")


@dataclasses.dataclass(frozen=True)
class Relation:
    """A relation and the prompts that ask for it."""

    name: str
    prompts: tuple[str, ...]  # each contains "{subject}" once and ends just before the answer, without a space
    domain: str  # what its subjects are, e.g. "countries"
    source: str = ""  # the package (or file) that its answers come from


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
    unseen_facts: float = 0.2  # share of the facts of each seen relation that the objective never uses, in (0, 1)
    unseen_relations: tuple[str, ...] = ()  # relations that the objective never uses; () draws `n_unseen_relations`
    n_unseen_relations: int = 2  # number of relations drawn when `unseen_relations` is empty

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"split.seed must be at least 0, got {self.seed}")
        if self.held_out_prompts < 1:
            raise UserError(f"held_out_prompts must be at least 1, got {self.held_out_prompts}")
        if not 0 < self.unseen_facts < 1:
            raise UserError(f"unseen_facts must lie between 0 and 1 (exclusive), got {self.unseen_facts}")
        if not self.unseen_relations and self.n_unseen_relations < 1:
            raise UserError(f"n_unseen_relations must be at least 1, got {self.n_unseen_relations}")


@dataclasses.dataclass(frozen=True)
class Split:
    """Queries by their role; a query is a row (fact index, prompt index) into a FactSet.

    `training` is what the language model reads. The four sets of `SETS` are what is measured:
    objective ⊂ training; held_out_prompts has the objective's facts with prompts outside training; unseen_facts and
    unseen_relations ⊂ training, with facts outside the objective.
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

    @property
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
        content = [[(r.name, r.prompts) for r in self.relations], [dataclasses.astuple(fact) for fact in self.facts]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def prompt(self, fact_index: int, prompt_index: int) -> str:
        """The text that ends just before the answer."""
        fact = self.facts[fact_index]
        return self.relation[fact.relation].prompts[prompt_index].format(subject=fact.subject)

    def split(self, config: SplitConfig) -> Split:
        """Deterministic split by `config.seed`; adding a relation does not move the facts of another one.

        Raises:
          UserError: if a relation is unknown, has too few prompts, or a set would be empty.
        """
        unseen_relations = config.unseen_relations or self._drawn_relations(config)
        for name in unseen_relations:
            if name not in self.relation:
                raise unknown("relation", name, self.relation, "Change split.unseen_relations.")
        rows: dict[str, list[np.ndarray]] = {name: [] for name in ("training", *SETS)}
        by_relation: dict[str, list[int]] = {relation.name: [] for relation in self.relations}
        for index, fact in enumerate(self.facts):
            by_relation[fact.relation].append(index)
        for relation in self.relations:
            indices = np.array(by_relation[relation.name], int)
            if not len(indices):
                continue
            rng = np.random.default_rng([config.seed, *relation.name.encode()])
            trained, held_out = _split_prompts(rng, relation, indices, config.held_out_prompts)
            rows["training"].append(trained)
            if relation.name in unseen_relations:
                rows["unseen_relations"].append(trained)
                continue
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
    relations: Sequence[Relation], candidates: Iterable[Fact], *, dropped: Mapping[str, int] | None = None
) -> FactSet:
    """A FactSet of the candidates that can be asked and answered without ambiguity; the rest is counted by reason.

    Dropped: "empty" (no subject or answer), "duplicate" (the same fact again), "ambiguous subject" (one subject,
    several answers in one relation: all of them go), "answer inside its prompt" (as whole words, without case, in any
    of the relation's prompts).

    Args:
      relations: all relations that may occur.
      candidates: facts in any order.
      dropped: counts of what the caller left out already.
    Raises:
      UserError: if a candidate's relation is unknown, or nothing is left.
    """
    by_name = {relation.name: relation for relation in relations}
    counts = dict(dropped or {})

    def drop(reason: str, number: int = 1) -> None:
        counts[reason] = counts.get(reason, 0) + number

    answers: dict[tuple[str, str], list[str]] = {}
    for fact in candidates:
        if fact.relation not in by_name:
            raise unknown("relation", fact.relation, by_name)
        if not fact.subject.strip() or not fact.answer.strip():
            drop("empty")
            continue
        known = answers.setdefault((fact.relation, fact.subject), [])
        if fact.answer in known:
            drop("duplicate")
        else:
            known.append(fact.answer)
    facts = []
    for (name, subject), known in answers.items():
        if len(known) > 1:
            drop("ambiguous subject", len(known))
            continue
        leak = re.compile(rf"(?<!\w){re.escape(known[0])}(?!\w)", re.IGNORECASE)
        if any(leak.search(prompt.format(subject=subject)) for prompt in by_name[name].prompts):
            drop("answer inside its prompt")
            continue
        facts.append(Fact(name, subject, known[0]))
    order = {relation.name: index for index, relation in enumerate(relations)}
    facts.sort(key=lambda fact: (order[fact.relation], fact.subject))
    return FactSet(tuple(relations), tuple(facts), counts)
