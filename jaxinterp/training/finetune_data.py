"""The facts of a fine-tuning run: which of those that the pretrained model knows the objective may see."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.facts.batches import QueryBatch, query_batch
from jaxinterp.facts.controls import Kind, allowed
from jaxinterp.facts.encoding import EncodedQueries
from jaxinterp.facts.facts import FactSet
from jaxinterp.facts.text_tokens import together
from jaxinterp.metrics.recall import most_probable
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.training.finetune_config import FactsConfig
from jaxinterp.training.finetune_known import Asked, Progress, ask, n_asked

SETS = ("objective", "unseen_facts", "unseen_relations")
COMPARED = 64  # queries of a relation that are compared when one of them is chosen for a batch


@dataclasses.dataclass(frozen=True)
class FinetuneData:
    """Known facts and their roles."""

    facts: FactSet
    sets: Mapping[str, EncodedQueries]  # by name out of SETS
    beliefs: EncodedQueries | None  # with the model's own answers, for the objective
    text: EncodedQueries | None  # pieces of text whose last token the model predicts
    tried: int  # queries that the model was asked
    dropped: Mapping[str, int]  # what was left out, by reason

    def describe(self) -> str:
        """One line a set, and what was left out."""
        lines = []
        for name, queries in self.sets.items():
            relations = sorted({self.facts.relations[index].name for index in queries.relation_N})
            n_facts = len(set(queries.fact_N.tolist()))
            lines.append(f"{name.replace('_', ' ')}: {len(queries)} queries, {n_facts} facts; {', '.join(relations)}")
        if self.beliefs is not None:
            names = sorted({self.facts.relations[index].name for index in self.beliefs.relation_N})
            lines.append(f"beliefs: {len(self.beliefs)} queries with the model's own answers; {', '.join(names)}")
        if self.text is not None:
            lines.append(f"text: {len(self.text)} pieces whose last token the model predicts")
        left_out = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
        return "\n".join([*lines, f"left out: {left_out}" if left_out else "nothing left out"])


def finetune_data(
    model: LanguageModel,
    config: FactsConfig,
    text_NT: Int[np.ndarray, "N T"] | None = None,
    *,
    progress: Progress = lambda *_: None,
) -> FinetuneData:
    """Asks the model and divides what it answers correctly; see `ask` and `divided`."""
    return divided(model, ask(model, config, text_NT, progress=progress), config, progress=progress)


def divided(
    model: LanguageModel, asked: Asked, config: FactsConfig, *, progress: Progress = lambda *_: None
) -> FinetuneData:
    """Divides what the model knows into what the objective sees and what it does not.

    A relation is seen or unseen as a whole. In seen relations subjects are divided, so that an unseen fact's subject is
    nowhere in the objective.

    A handful of relations cannot teach a model to keep any two facts apart, and there are no more that a small model
    knows. What it believes has neurons as well, true or not: so the answers that it gives itself to prompts which it
    answers wrongly serve as further facts of the objective, of relations and subjects that the objective may see; and
    tokens of neutral text that it predicts, each of a relation of its own.

    Args:
      model: which was asked, and is asked here what it believes.
      asked: by `ask`, with the same facts.
      config: the division.
      progress: called with (queries asked, queries in all, with those of `ask`).
    Raises:
      UserError: if relations are unknown, or a set would be empty.
    """
    queries, sets, beliefs = asked.queries, _divided(asked.facts, asked.known, config), None
    done, total = len(queries) + asked.n_text, n_asked(len(queries), asked.n_text, config)

    def advance(n: int) -> None:
        nonlocal done
        done += n
        progress(done, total)

    if n_beliefs := min(config.beliefs, len(queries)):
        wrong = _open_to_the_objective(queries[np.flatnonzero(~asked.correct_N)], sets, config)
        order = np.random.default_rng([config.seed, 2]).permutation(len(wrong))[:n_beliefs]
        beliefs = _beliefs(model, queries, wrong[order], config.least_belief, advance)
    return FinetuneData(asked.facts, sets, beliefs, asked.text, len(queries), asked.dropped)


def _open_to_the_objective(
    queries: EncodedQueries, sets: Mapping[str, EncodedQueries], config: FactsConfig
) -> EncodedQueries:
    """Those of no unseen relation and of no subject that is kept out."""
    unseen = np.isin(queries.relation_N, sets["unseen_relations"].relation_N)
    kept_out = np.isin(queries.subject_N, sets["unseen_facts"].subject_N)
    return queries[np.flatnonzero(~unseen & ~kept_out)]


def _beliefs(
    model: LanguageModel,
    everything: EncodedQueries,
    queries: EncodedQueries,
    least: float,
    advance: Callable[[int], None],
) -> EncodedQueries | None:
    """The queries with the model's own answers, out of their relations' one-token answers; None if there are none."""
    rows = np.arange(len(everything))
    first, one_token = everything.tokens_NT[rows, everything.answer_start_N], everything.answer_length_N == 1
    own = {r: np.unique(first[one_token & (everything.relation_N == r)]) for r in set(everything.relation_N.tolist())}
    queries = queries[np.flatnonzero([len(own[relation]) > 1 for relation in queries.relation_N.tolist()])]
    if not len(queries):
        return None
    token_N, p_N = most_probable(model.model, queries, own, progress=advance)
    tokens, start = queries.tokens_NT.copy(), queries.answer_start_N
    tokens[np.arange(len(queries)), start] = token_N
    after = np.arange(tokens.shape[1])[None] > start[:, None]
    tokens = np.where(after, model.tokenizer.pad, tokens).astype(queries.tokens_NT.dtype)
    number = dict(zip(first[one_token].tolist(), everything.answer_N[one_token].tolist(), strict=True))
    answered = dataclasses.replace(
        queries,
        tokens_NT=tokens,
        length_N=start + 1,
        answer_length_N=np.ones(len(queries), int),
        answer_N=np.array([number[token] for token in token_N.tolist()]),
    )
    sure = np.flatnonzero(p_N >= least)
    return answered[sure] if len(sure) else None


def _divided(facts: FactSet, known: EncodedQueries, config: FactsConfig) -> dict[str, EncodedQueries]:
    names = np.array([facts.relations[index].name for index in known.relation_N.tolist()], object)
    relations = sorted(set(names.tolist()))
    if len(relations) < 3:
        raise UserError(
            f"the model knows facts of {len(relations)} relations ({', '.join(relations) or 'none'}), too few to keep "
            "one from the objective; use more facts, or a smaller facts.least"
        )
    rng = np.random.default_rng(config.seed)
    drawn = rng.permutation(np.array(relations, object))[: config.n_unseen_relations].tolist()
    unseen = config.unseen_relations or tuple(drawn)
    for name in unseen:
        if name not in relations:
            raise unknown("relation", name, relations, "Only relations with known facts can be unseen ones.")
    subjects = np.unique(known.subject_N)
    kept_out = rng.permutation(subjects)[: round(config.unseen_facts * len(subjects))]
    new_relation, new_subject = np.isin(names, unseen), np.isin(known.subject_N, kept_out)
    roles = (~new_relation & ~new_subject, ~new_relation & new_subject, new_relation)
    sets = {name: known[np.flatnonzero(role)] for name, role in zip(SETS, roles, strict=True)}
    for name, part in sets.items():
        if not len(part):
            raise UserError(f"no known fact is left for {name!r}; use more facts, or change facts.unseen_*")
    return sets


def finetune_batch(
    data: FinetuneData, *, seed: int, step: int, n_queries: int, n_rows: int, n_text: int = 0, n_controls: int = 1
) -> QueryBatch:
    """The queries of a step: facts and beliefs spread evenly over relations, then pieces of text.

    A pure function of its arguments.

    Relations with many known facts would otherwise drown the others. A relation that is in a batch has two or more
    queries there, so that their answers are controls of each other; see `_composed` for the other kinds.
    """
    queries, rng = data.sets["objective"], np.random.default_rng([seed, step])
    if data.beliefs is not None:
        queries = together(queries, data.beliefs)
    relations = rng.permutation(np.unique(queries.relation_N))[: max(n_queries // 2, 1)]
    asked = queries[_composed(queries, np.resize(relations, n_queries), rng)]
    if n_text:
        asked = together(asked, data.text[rng.choice(len(data.text), n_text, replace=len(data.text) < n_text)])
    n = len(asked)
    batch, _ = query_batch(asked, n_sequences=n, n_rows=n_rows, answered=range(n), rng=rng, n_controls=n_controls)
    return batch


def _composed(
    queries: EncodedQueries, relation_n: Int[np.ndarray, " n"], rng: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """A query of each relation in turn, such that most answers have controls of every kind among the others.

    Every other query is any that is a control for those of its relation, so that all facts are drawn. The queries
    between are, where there are such, about a subject that stands in the batch already, or else one that could.
    """
    others = np.flatnonzero(np.isin(queries.relation_N, relation_n))
    facts = np.unique(np.stack([queries.subject_N[others], queries.relation_N[others]]), axis=1)
    subjects, n_relations = np.unique(facts[0], return_counts=True)
    several = np.isin(queries.subject_N, subjects[n_relations > 1])
    chosen: list[int] = []
    for place, relation in enumerate(relation_n.tolist()):
        drawn = rng.permutation(np.flatnonzero(queries.relation_N == relation))[:COMPARED]
        kinds = ("relation", "subject")[: 1 + place % 2]
        value = _partners(queries, np.array(chosen, int), drawn, kinds) + 0.5 * several[drawn] * (place % 2)
        chosen.append(int(drawn[value.argmax()]))
    return np.array(chosen, int)


def _partners(
    queries: EncodedQueries, chosen: Int[np.ndarray, " c"], drawn: Int[np.ndarray, " d"], kinds: Sequence[Kind]
) -> Float[np.ndarray, " d"]:
    """How many answers get a control of a kind that they lack by each of `drawn`, itself counted; a fact twice: −1."""
    part, n = queries[np.concatenate([chosen, drawn])], len(chosen)
    tokens, value = part.answer_parts(), np.zeros(len(drawn))
    for kind in kinds:
        fits = allowed(part, slice(0, len(part)), kind, tokens)[:, :n]
        lacking = ~fits[:n].any(1)
        value += fits[n:].any(1) + (fits[n:] & lacking[None]).sum(1)
    same = (part.subject_N[n:, None] == part.subject_N[None, :n]) & (
        part.relation_N[n:, None] == part.relation_N[None, :n]
    )
    return np.where(same.any(1), -1.0, value)
