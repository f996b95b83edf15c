"""What is asked of a model before and after edits, and the texts that are read beside."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from jaxinterp.base.errors import UserError
from jaxinterp.base.progress import waiting
from jaxinterp.editing.protocol.case import Case
from jaxinterp.editing.protocol.questions import Prepared, Says, known_facts, prepared, says
from jaxinterp.editing.protocol.structure import Structure, structure
from jaxinterp.editing.protocol.world import cases_of, drawn_answers
from jaxinterp.editing.request import Request
from jaxinterp.facts.facts import FactSet
from jaxinterp.facts.source import load_facts
from jaxinterp.facts.spelling import same_text
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.studies.editing.config import EditingConfig
from jaxinterp.training.data import data_from_provenance
from jaxinterp.training.texts import documents_of

OTHERS = 500  # facts that sequences are judged by
LONG = 150  # characters of a paragraph, at least
KEPT = ("neighbourhood", "same_relation", "same_subject", "other")  # kinds of prompts that KN-solve is to keep


class Texts(NamedTuple):
    """Texts that have no part in common."""

    keys: Sequence[str]  # of which key covariances are taken
    perplexity: Sequence[str]


class Posed:
    """Edits as questions to one model."""

    def __init__(
        self,
        model: LanguageModel,
        facts: FactSet,
        known_N: Bool[np.ndarray, " N"],
        answers: Mapping[int, str],
        config: EditingConfig,
    ) -> None:
        """Of facts, those that the model knows, and the new answers of some."""
        self.model, self.facts, self.known_N, self.answers, self.config = model, facts, known_N, answers, config
        cases = cases_of(facts, answers, n_each=config.probes, seed=config.seed, known=known_N)
        self.cases: list[Case] = [self._not_asked(one) for one in cases]
        self.prepared: list[Prepared] = prepared(model, self.cases)
        self._before: dict[int, Says] = {}
        self._kept: dict[int, tuple[list[str], ...]] = {}

    def rephrased(self, case: Case) -> tuple[Request, ...]:
        """A case's request in other words, of which no question is asked; one prompt at least is left to ask by."""
        others = case.request.paraphrases
        return others[: min(self.config.rephrased, max(len(others) - 1, 0))]

    def _not_asked(self, case: Case) -> Case:
        told = {one.prompt for one in self.rephrased(case)}
        return dataclasses.replace(case, probes=tuple(probe for probe in case.probes if probe.prompt not in told))

    def before(self, number: int) -> Says:
        """What the untouched model says about a case."""
        if number not in self._before:
            self._before[number] = says(self.model, self.prepared[number])
        return self._before[number]

    @functools.cached_property
    def edited(self) -> list[int]:
        """The facts that are edited, by index."""
        return list(self.answers)

    @functools.cached_property
    def _structure(self) -> Structure:
        return structure(self.facts)

    @functools.cached_property
    def untouched(self) -> list[int]:
        """Facts that the model knows, that no edit should change, and that no edit is told of: by them sequences and
        perplexities are judged. At most `OTHERS`, and half of those there are, drawn by the seed.
        """
        inverses, facts = self._structure.inverses, self.facts.facts
        moved = {(facts[index].relation, same_text(facts[index].subject)) for index in self.edited}
        for index, new in self.answers.items():
            inverse = inverses.get(facts[index].relation, "")
            moved |= {(inverse, same_text(answer)) for answer in (facts[index].answer, new)}
        left = [
            index
            for index in np.flatnonzero(self.known_N).tolist()
            if (facts[index].relation, same_text(facts[index].subject)) not in moved
        ]
        drawn = np.random.default_rng([self.config.seed, *b"untouched"]).permutation(left).tolist()
        return drawn[: min(OTHERS, len(drawn) // 2)]

    def kept(self, number: int) -> tuple[list[str], ...]:
        """Prompts of `KEPT`, drawn by the seed out of what the model knows, what no question of the case asks, and what
        is not `untouched`.

        Neighbours, which are few and easily lost, are repeated until they count as much as another kind.
        """
        if number not in self._kept:
            self._kept[number] = self._drawn_to_keep(number)
        return self._kept[number]

    def _drawn_to_keep(self, number: int) -> tuple[list[str], ...]:
        case, own = self.cases[number], self.facts.facts[self.edited[number]]
        asked = {probe.prompt for probe in case.probes}
        pools: dict[str, list[int]] = {kind: [] for kind in KEPT}
        inverse = self._structure.inverses.get(own.relation)
        answers = {same_text(own.answer), same_text(self.answers[self.edited[number]])}
        for index in sorted({*np.flatnonzero(self.known_N).tolist()} - {*self.untouched}):
            fact = self.facts.facts[index]
            if fact.relation == inverse and same_text(fact.subject) in answers:
                continue  # what an edit should change
            if fact.subject == own.subject and (own.relation, fact.relation) in self._structure.made_of:
                continue
            if fact.relation == own.relation and fact.subject != own.subject:
                pools["neighbourhood" if fact.answer == own.answer else "same_relation"].append(index)
            elif fact.subject == own.subject and fact.relation != own.relation:
                pools["same_subject"].append(index)
            elif fact.subject != own.subject:
                pools["other"].append(index)
        rng = np.random.default_rng([self.config.seed, self.edited[number]])
        found = []
        for kind in KEPT:
            prompts = [self.facts.prompt(int(index), 0) for index in rng.permutation(pools[kind])]
            left = [prompt for prompt in prompts if prompt not in asked]
            repeated = itertools.cycle(left) if kind == "neighbourhood" else left
            found.append(list(itertools.islice(repeated, self.config.kept)))
        return tuple(found)

    @functools.cached_property
    def texts(self) -> Texts:
        """Texts for key covariances, and others for perplexities: of facts, sentences of all but those `untouched`, and
        of these alone.
        """
        rng = np.random.default_rng(self.config.seed)
        if self.config.text == "facts":
            aside = {*self.untouched}
            keys = self._sentences([index for index in range(len(self.facts)) if index not in aside], rng)
            others = self._sentences(self.untouched, rng)
        else:
            documents = documents_of(self.config.text_folder())
            keys, others = (_paragraphs(part, rng) for part in (documents.training, documents.held_out))
        if not keys or not others:
            raise UserError(f"there is not enough text in {self.config.text!r} for key covariances; give other text")
        n_others = self.config.perplexities or max(self.config.windows // 10, 1)
        return Texts(keys[: self.config.windows], others[:n_others])

    def _sentences(self, facts: Sequence[int], rng: np.random.Generator) -> list[str]:
        """All sentences of facts, in an order that is drawn."""
        found = [
            "".join(self.facts.text(index, prompt))
            for index in facts
            for prompt in range(len(self.facts.relation[self.facts.facts[index].relation].prompts))
        ]
        return [found[i] for i in rng.permutation(len(found)).tolist()]


def _paragraphs(documents: Mapping[str, str], rng: np.random.Generator) -> list[str]:
    """Paragraphs of some length, in an order that is drawn."""
    found = [part for text in documents.values() for part in text.split("\n\n") if len(part) > LONG]
    return [found[i] for i in rng.permutation(len(found)).tolist()]


def facts_of(model: LanguageModel, source: str | None) -> FactSet:
    """Facts as a causal model reads them; of None, those that it was trained on.

    Raises:
      UserError: if they cannot be read, or the model does not say what it was trained on.
    """
    return (data_from_provenance(model.provenance).facts if source is None else load_facts(source)).answer_last()


def posed(model: LanguageModel, facts: FactSet, config: EditingConfig) -> Posed:
    """The edits of a study: asks which facts the model knows, and draws new answers.

    Raises:
      UserError: if the model knows fewer facts than are to be edited.
    """
    with waiting("asking the model which facts it knows"):
        known_N = known_facts(model, facts)
    n = max(config.edits, config.batch, config.sequence)
    return Posed(model, facts, known_N, drawn_answers(facts, known_N, n, config.seed, model.tokenizer), config)
