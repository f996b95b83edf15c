"""What a pretrained model knows of facts and of text, before anything is divided."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Int

from jaxinterp.base.errors import UserError
from jaxinterp.facts.encoding import EncodedQueries, encode
from jaxinterp.facts.facts import FactSet
from jaxinterp.facts.source import load_facts
from jaxinterp.facts.text_tokens import token_queries
from jaxinterp.metrics.recall import recalled
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.training.finetune_config import FactsConfig

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a model was asked, and what it answered correctly; nothing is divided yet."""

    whole: FactSet  # before any limit
    facts: FactSet  # those that were asked
    queries: EncodedQueries  # all that were asked
    correct_N: Bool[np.ndarray, " N"]  # of `queries`
    known: EncodedQueries  # answered correctly, of relations with enough known facts
    text: EncodedQueries | None  # pieces of text whose last token the model predicts
    dropped: Mapping[str, int]  # what was left out, by reason
    n_text: int  # pieces that were asked

    @property
    def relations(self) -> tuple[str, ...]:
        """The names of the known relations, sorted."""
        return tuple(sorted({self.facts.relations[index].name for index in self.known.relation_N.tolist()}))


def ask(
    model: LanguageModel,
    config: FactsConfig,
    text_NT: Int[np.ndarray, "N T"] | None = None,
    *,
    progress: Progress = lambda *_: None,
) -> Asked:
    """Asks the model all facts. A query (a fact with one prompt) is known if every token of its answer is the most
    probable one.

    Args:
      model: a causal language model.
      config: which facts; how they are divided does not matter here.
      text_NT: pieces of neutral text, whose last token is asked; None is no text.
      progress: called with (queries asked, queries in all, with those that `divided` will ask).
    Raises:
      UserError: if the model is not causal, facts or relations are unknown, or no piece of text is predicted.
    """
    if model.config.attention != "causal":
        raise UserError("fine-tuning needs a causal language model; this one is a masked one")
    whole = load_facts(config.source).select(relations=config.relations).answer_last()
    facts = whole.limited(config.limit, config.seed)
    dropped = dict(facts.dropped)
    longest = min(config.longest, model.config.n_ctx)
    queries = encode(facts, facts.queries(config.prompts, config.seed), model.tokenizer, n_ctx=longest, dropped=dropped)
    pieces = None if text_NT is None else _text_queries(text_NT, queries)
    n_text = 0 if pieces is None else len(pieces)
    done, total = 0, n_asked(len(queries), n_text, config)

    def advance(n: int) -> None:
        nonlocal done
        done += n
        progress(done, total)

    correct_N = recalled(model.model, queries, progress=advance)["correct"] > 0
    dropped["answered wrongly"] = int((~correct_N).sum())
    known = queries[np.flatnonzero(correct_N)]
    enough = _enough(known, config.least)
    dropped[f"of a relation with fewer than {config.least} known facts"] = int((~enough).sum())
    known = known[np.flatnonzero(enough)]
    if pieces is not None:
        predicted = recalled(model.model, pieces, progress=advance)["correct"] > 0
        dropped["piece of text whose last token is not predicted"] = int((~predicted).sum())
        pieces = pieces[np.flatnonzero(predicted)]
        if not len(pieces):
            raise UserError(
                "the model predicts the last token of no piece of text; set text.tried and text_queries to 0"
            )
    return Asked(whole, facts, queries, correct_N, known, pieces, dropped, n_text)


def n_asked(n_queries: int, n_text: int, config: FactsConfig) -> int:
    """The number of queries in all: facts, pieces of text, and the most that are tried for beliefs."""
    return n_queries + n_text + min(config.beliefs, n_queries)


def _text_queries(text_NT: Int[np.ndarray, "N T"], facts: EncodedQueries) -> EncodedQueries:
    """Each piece's last token as an answer."""
    length = np.full(len(text_NT), text_NT.shape[1])
    return token_queries(text_NT, length, length - 1, facts)


def _enough(known: EncodedQueries, least: int) -> Bool[np.ndarray, " N"]:
    n_facts = {r: len(set(known.fact_N[known.relation_N == r].tolist())) for r in set(known.relation_N.tolist())}
    return np.array([n_facts[relation] >= least for relation in known.relation_N.tolist()], bool)
