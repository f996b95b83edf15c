"""The facts of a fine-tuning run: those that the pretrained model knows, and which the objective may see."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Int

from jaxinterp.errors import UserError, unknown
from jaxinterp.facts.encoding import EncodedQueries, QueryBatch, encode, query_batch
from jaxinterp.facts.facts import FactSet
from jaxinterp.facts.source import load_facts
from jaxinterp.metrics.answers import recalled
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.training.finetune_config import FactsConfig

SETS = ("objective", "unseen_facts", "unseen_relations")


@dataclasses.dataclass(frozen=True)
class FinetuneData:
    """Known facts and their roles."""

    facts: FactSet
    sets: Mapping[str, EncodedQueries]  # by name out of SETS
    tried: int  # queries that the model was asked
    dropped: Mapping[str, int]  # what was left out, by reason

    def describe(self) -> str:
        """One line a set, and what was left out."""
        lines = []
        for name, queries in self.sets.items():
            relations = sorted({self.facts.relations[index].name for index in queries.relation_N})
            n_facts = len(set(queries.fact_N.tolist()))
            lines.append(f"{name.replace('_', ' ')}: {len(queries)} queries, {n_facts} facts; {', '.join(relations)}")
        left_out = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
        return "\n".join([*lines, f"left out: {left_out}" if left_out else "nothing left out"])


def finetune_data(
    model: LanguageModel, config: FactsConfig, *, progress: Callable[[int, int], None] = lambda *_: None
) -> FinetuneData:
    """Asks the model and divides what it answers correctly.

    A relation is seen or unseen as a whole. In seen relations subjects are divided, so that an unseen fact's subject is
    nowhere in the objective. A query (a fact with one prompt) is known if every token of its answer is the most
    probable one.

    Args:
      model: a causal language model.
      config: which facts.
      progress: called with (queries asked, queries in all).
    Raises:
      UserError: if the model is not causal, facts or relations are unknown, or a set would be empty.
    """
    if model.config.attention != "causal":
        raise UserError("fine-tuning needs a causal language model; this one is a masked one")
    facts = load_facts(config.source).select(relations=config.relations).answer_last()
    facts = facts.limited(config.limit, config.seed)
    dropped = dict(facts.dropped)
    longest = min(config.longest, model.config.n_ctx)
    queries = encode(
        facts, facts.queries(config.prompts, config.seed), model.tokenizer, n_ctx=longest, dropped=dropped
    )
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        progress(done, len(queries))

    correct = recalled(model.config, model.params, queries, progress=advance)["correct"] > 0
    dropped["answered wrongly"] = int((~correct).sum())
    known = queries[np.flatnonzero(correct)]
    enough = _enough(known, config.least)
    dropped[f"of a relation with fewer than {config.least} known facts"] = int((~enough).sum())
    known = known[np.flatnonzero(enough)]
    return FinetuneData(facts, _divided(facts, known, config), len(queries), dropped)


def _enough(known: EncodedQueries, least: int) -> Bool[np.ndarray, " N"]:
    n_facts = {r: len(set(known.fact_N[known.relation_N == r].tolist())) for r in set(known.relation_N.tolist())}
    return np.array([n_facts[relation] >= least for relation in known.relation_N.tolist()], bool)


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


def finetune_batch(data: FinetuneData, *, seed: int, step: int, n_queries: int, n_rows: int) -> QueryBatch:
    """The queries of a step, spread evenly over relations; a pure function of its arguments.

    Relations with many known facts would otherwise drown the others, and a control needs another relation.
    """
    queries, rng = data.sets["objective"], np.random.default_rng([seed, step])
    relations = np.unique(queries.relation_N)
    share = {relation: np.flatnonzero(queries.relation_N == relation) for relation in relations.tolist()}
    turns = np.concatenate([rng.permutation(relations) for _ in range(-(-n_queries // len(relations)))])[:n_queries]
    chosen: Int[np.ndarray, " n"] = np.array([rng.choice(share[relation]) for relation in turns.tolist()])
    batch, _ = query_batch(queries[chosen], n_sequences=n_queries, n_rows=n_rows, answered=range(len(chosen)), rng=rng)
    return batch
