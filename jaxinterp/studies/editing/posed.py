"""What is asked of a model before and after edits, and the texts that are read beside."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from jaxinterp.base.errors import UserError
from jaxinterp.base.progress import waiting
from jaxinterp.editing.protocol.case import Case
from jaxinterp.editing.protocol.questions import Prepared, Says, known_facts, prepared, says
from jaxinterp.editing.protocol.world import cases_of, drawn_answers
from jaxinterp.facts.facts import FactSet
from jaxinterp.facts.source import load_facts
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.studies.editing.config import EditingConfig
from jaxinterp.training.data import data_from_provenance
from jaxinterp.training.texts import documents_of

LONG = 150  # characters of a paragraph, at least
KEPT = ("same_relation", "same_subject", "other")  # kinds of prompts that KN-solve is to keep


class Texts(NamedTuple):
    """Texts that have no part in common."""

    keys: Sequence[str]  # of which key covariances are taken
    perplexity: Sequence[str]


class Posed:
    """Edits as questions to one model."""

    def __init__(self, model: LanguageModel, facts: FactSet, config: EditingConfig) -> None:
        """Asks which facts the model knows and draws new answers.

        Raises:
          UserError: if the model knows fewer facts than are to be edited.
        """
        self.model, self.facts, self.config = model, facts, config
        self.known_N: Bool[np.ndarray, " N"] = known_facts(model, facts)
        n = max(config.edits, config.batch, config.sequence)
        self.answers: Mapping[int, str] = drawn_answers(facts, self.known_N, n, config.seed, model.tokenizer)
        each = {"n_each": config.probes, "seed": config.seed, "known": self.known_N}
        self.cases: list[Case] = cases_of(facts, self.answers, **each)
        self.prepared: list[Prepared] = prepared(model, self.cases)
        self._before: dict[int, Says] = {}

    def before(self, number: int) -> Says:
        """What the untouched model says about a case."""
        if number not in self._before:
            self._before[number] = says(self.model, self.prepared[number])
        return self._before[number]

    @functools.cached_property
    def edited(self) -> list[int]:
        """The facts that are edited, by index."""
        return list(self.answers)

    def kept(self, number: int) -> tuple[list[str], ...]:
        """Prompts of `KEPT`, drawn by the seed out of what the model knows and no question of the case asks."""
        case, own = self.cases[number], self.facts.facts[self.edited[number]]
        asked = {probe.prompt for probe in case.probes}
        pools: dict[str, list[int]] = {kind: [] for kind in KEPT}
        for index in np.flatnonzero(self.known_N).tolist():
            fact = self.facts.facts[index]
            if fact.relation == own.relation and fact.subject != own.subject:
                pools["same_relation"].append(index)
            elif fact.subject == own.subject and fact.relation != own.relation:
                pools["same_subject"].append(index)
            elif fact.subject != own.subject:
                pools["other"].append(index)
        rng = np.random.default_rng([self.config.seed, self.edited[number]])
        found = []
        for kind in KEPT:
            prompts = [self.facts.prompt(int(index), 0) for index in rng.permutation(pools[kind])]
            found.append([prompt for prompt in prompts if prompt not in asked][: self.config.kept])
        return tuple(found)

    @functools.cached_property
    def texts(self) -> Texts:
        """Texts for key covariances, and others for perplexities."""
        rng = np.random.default_rng(self.config.seed)
        if self.config.text == "facts":
            sentences = [
                "".join(self.facts.text(index, prompt))
                for index, fact in enumerate(self.facts.facts)
                for prompt in range(len(self.facts.relation[fact.relation].prompts))
            ]
            drawn = [sentences[i] for i in rng.permutation(len(sentences)).tolist()]
            keys, others = drawn[: len(drawn) * 9 // 10], drawn[len(drawn) * 9 // 10 :]
        else:
            documents = documents_of(self.config.text_folder())
            keys, others = (_paragraphs(part, rng) for part in (documents.training, documents.held_out))
        if not keys or not others:
            raise UserError(f"there is not enough text in {self.config.text!r} for key covariances; give other text")
        return Texts(keys[: self.config.windows], others[: max(self.config.windows // 10, 1)])


def _paragraphs(documents: Mapping[str, str], rng: np.random.Generator) -> list[str]:
    """Paragraphs of some length, in an order that is drawn."""
    found = [part for text in documents.values() for part in text.split("\n\n") if len(part) > LONG]
    return [found[i] for i in rng.permutation(len(found)).tolist()]


def posed(model: LanguageModel, config: EditingConfig) -> Posed:
    """The edits of a study; UserError as `Posed`, or if the facts cannot be read."""
    with waiting("asking the model which facts it knows"):
        own = config.facts is None
        facts = data_from_provenance(model.provenance).facts if own else load_facts(config.facts)
        return Posed(model, facts.answer_last().limited(config.limit, config.seed), config)
