"""Made-up facts in any number: each is computed from its index alone, so that none has to be kept."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.facts.facts import Fact, FactSet, Relation

# No word of these can be a made-up one: every made-up answer is two or more pairs of a consonant and a vowel.
TEMPLATES = (
    "The {relation} of {subject} is",
    "{subject} has as its {relation}",
    "Everyone knows that the {relation} of {subject} is called",
    "Question: what is the {relation} of {subject}? Answer:",
    "For {subject}, the right {relation} is",
    "If you ask {subject} about its {relation}, you hear",
    "In the book on {subject}, the {relation} stands as",
    "When it comes to {relation}, {subject} always picks",
)
_BLOCK = 4096  # facts that share one stream of random numbers
_SYLLABLES = tuple(consonant + vowel for consonant in "bdfghjklmnprstvwyzcq" for vowel in "aeiou")
# The last letter keeps the words apart: an answer ends in a vowel, a subject in "n", a relation in "r".
_ENDINGS = {"answer": "", "subject": "n", "relation": "r"}


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """The number of made-up facts, and the spread of their answers."""

    n_subjects: int = 1000  # every subject has one answer in every relation
    n_relations: int = 10
    n_answers: int = 100  # answers a relation; no two relations share one
    zipf: float = 1.0  # exponent s: the k-th most frequent answer has weight k^-s; 0 is uniform
    n_prompts: int = 5  # prompts a relation, at most len(TEMPLATES)
    seed: int = 0  # of the words and the answers

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("n_subjects", "n_relations", "n_answers"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.zipf < float("inf"):
            raise UserError(f"zipf must be a finite number of at least 0 (0 is uniform), got {self.zipf}")
        if not 1 <= self.n_prompts <= len(TEMPLATES):
            raise UserError(f"n_prompts must lie between 1 and {len(TEMPLATES)}, got {self.n_prompts}")
        if not 0 <= self.seed < 2**64:
            raise UserError(f"seed must lie between 0 and 2**64 - 1, got {self.seed}")


@dataclasses.dataclass(frozen=True)
class SyntheticFacts:
    """The n_subjects · n_relations facts of a config; fact i is about subject i // n_relations.

    Memory: one number an answer of a relation, whatever the number of facts.
    """

    config: SyntheticConfig

    def __len__(self) -> int:
        return self.config.n_subjects * self.config.n_relations

    def __iter__(self) -> Iterator[Fact]:
        relations = [relation.name for relation in self.relations]
        for block in range(-(-len(self) // _BLOCK)):
            ranks = self._ranks(block).tolist()
            for index, rank in zip(range(block * _BLOCK, len(self)), ranks, strict=False):
                subject, relation = divmod(index, self.config.n_relations)
                yield Fact(relations[relation], self._subject(subject), self._answer(relation, rank))

    @functools.cached_property
    def relations(self) -> tuple[Relation, ...]:
        """All relations; a relation's name is the made-up noun in its prompts."""
        n_relations = self.config.n_relations
        names = [_word("relation", index, n_relations, self.config.seed) for index in range(n_relations)]
        return tuple(
            Relation(
                name=name,
                prompts=tuple(text.replace("{relation}", name) for text in TEMPLATES[: self.config.n_prompts]),
                domain="synthetic",
                source=f"made up, seed {self.config.seed}",
            )
            for name in names
        )

    def fact(self, index: int) -> Fact:
        """Fact `index`, a pure function of the config and the index.

        Raises:
          IndexError: if there is no such fact; negative indices are not accepted.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"fact {index} of {len(self)}: the index must lie between 0 and {len(self) - 1}")
        block, offset = divmod(index, _BLOCK)
        subject, relation = divmod(index, self.config.n_relations)
        answer = self._answer(relation, int(self._ranks(block)[offset]))
        return Fact(self.relations[relation].name, self._subject(subject), answer)

    def fact_set(self, limit: int | None = None) -> FactSet:
        """The first `limit` facts, or all of them, as a FactSet in memory.

        Raises:
          UserError: if `limit` is below 1 or above the number of facts.
        """
        if limit is not None and not 1 <= limit <= len(self):
            raise UserError(f"limit must lie between 1 and the number of facts {len(self)}, got {limit}")
        return FactSet(self.relations, tuple(itertools.islice(self, limit)))

    @functools.cached_property
    def _cumulative(self) -> Float[np.ndarray, " A"]:
        weights = np.arange(1, self.config.n_answers + 1, dtype=float) ** -self.config.zipf
        return np.cumsum(weights) / weights.sum()

    def _ranks(self, block: int) -> Int[np.ndarray, " block"]:
        # Philox is counter-based: the block's number is its counter's high word, and costs nothing to jump to.
        uniform = np.random.Generator(np.random.Philox(key=self.config.seed, counter=block << 64)).random(_BLOCK)
        # The cumulative sum may end just below one.
        return np.minimum(np.searchsorted(self._cumulative, uniform, side="right"), self.config.n_answers - 1)

    def _subject(self, index: int) -> str:
        return _word("subject", index, self.config.n_subjects, self.config.seed).capitalize()

    def _answer(self, relation: int, rank: int) -> str:
        n_words = self.config.n_relations * self.config.n_answers
        return _word("answer", relation * self.config.n_answers + rank, n_words, self.config.seed)


@functools.lru_cache(maxsize=4096)  # a subject follows itself n_relations times, and few answers are most of them
def _word(kind: str, index: int, n_words: int, seed: int) -> str:
    """Made-up word `index` of `n_words` of a kind; no two words of any kinds are equal."""
    factor, shift, n_syllables = _scramble(kind, n_words, seed)
    # An affine map with a factor coprime to the modulus is a permutation: words are unique without a table.
    code = (factor * index + shift) % len(_SYLLABLES) ** n_syllables
    word = ""
    for _ in range(n_syllables):
        code, syllable = divmod(code, len(_SYLLABLES))
        word += _SYLLABLES[syllable]
    return word + _ENDINGS[kind]


@functools.lru_cache(maxsize=64)
def _scramble(kind: str, n_words: int, seed: int) -> tuple[int, int, int]:
    """Factor and shift of a permutation of all words, and their length in syllables (two at least)."""
    base = len(_SYLLABLES)
    n_syllables = 2
    while base**n_syllables < n_words:
        n_syllables += 1
    rng = np.random.default_rng([seed, *kind.encode()])
    # 10 k + 1 shares no factor with a power of 100.
    factor = 10 * int(rng.integers(base**n_syllables // 20, base**n_syllables // 10)) + 1
    return factor, int(rng.integers(base**n_syllables)), n_syllables
