"""The protocol of Dai et al. 2022: change and success rates, and what other answers lose, inside and across relations.

It is for masked models as well as causal ones, and looks at answers token by token: an answer is what the model says if
each of its tokens is the most probable one after the prompt and the tokens before it, of a masked model with the later
ones masked. That is what greedy filling from the left gives.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.base.errors import UserError
from jaxinterp.editing.change import apply
from jaxinterp.editing.edit import edit
from jaxinterp.editing.neurons import request_neurons, without_common
from jaxinterp.editing.protocol.columns import DIFFERENCE, SHARE, Column
from jaxinterp.editing.registry import Given, Neurons
from jaxinterp.editing.request import Request
from jaxinterp.facts.batches import query_batch
from jaxinterp.facts.encoding import encode_texts
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.readout import Rows, row_logits
from jaxinterp.models.transformer import forward

ROWS = 64  # tokens of answers at once
_ANY = (-math.inf, math.inf)
DAI_COLUMNS: Mapping[str, Column] = {
    "change_rate": Column("% of edits after which the model no longer says the old answer", SHARE),
    "success_rate": Column("% of edits after which the model says the new answer", SHARE),
    "inside_perplexity": Column(
        "perplexity of the old answers of other facts of the relation, after the edit less before it; perplexity is "
        "exp(mean over facts of −log P(answer) / tokens)",
        _ANY,
    ),
    "across_perplexity": Column(
        "perplexity of the answers of facts of other relations, after the edit less before it", _ANY
    ),
    "inside_probability": Column(
        "mean P(answer) of other facts of the relation, after the edit less before it, in percentage points", DIFFERENCE
    ),
    "across_probability": Column(
        "mean P(answer) of facts of other relations, after the edit less before it, in percentage points", DIFFERENCE
    ),
    "neurons": Column("number of neurons that are edited", (0.0, math.inf)),
}


class Answered(NamedTuple):
    """What a model makes of answers."""

    log_p_N: Float[np.ndarray, " N"]  # log P, all tokens, in nats
    tokens_N: Int[np.ndarray, " N"]
    said_N: Bool[np.ndarray, " N"]  # every token is the most probable one


def dai_neurons(
    model: LanguageModel,
    requests: Sequence[Request],
    k: int = 8,
    *,
    share: float = 0.1,
    method: str = "integrated_gradients",
) -> list[Neurons]:
    """Each request's knowledge neurons without those of more than a share of its relation's requests.

    Args:
      model: a language model.
      requests: facts that the model answers, of relations with at least 1 / share of them: with fewer, every neuron
        would be one of too many facts.
      k: neurons of each before any is dropped.
      share: above 0, at most 1.
      method: of attribution, as for `request_neurons`.
    Returns:
      Neurons in the order of the requests; a request may have none left.
    Raises:
      UserError: if a relation has too few requests, or as `request_neurons`.
    """
    if not 0 < share <= 1:
        raise UserError(f"the share of a relation's facts must be above 0 and at most 1, got {share}")
    chosen: dict[int, Neurons] = {}
    for relation in dict.fromkeys(one.relation for one in requests):
        numbers = [number for number, one in enumerate(requests) if one.relation == relation]
        if len(numbers) * share < 1:
            raise UserError(
                f"relation {relation!r} has {len(numbers)} requests: each of its neurons would be one of more than "
                f"{share:.0%} of them; give at least {math.ceil(1 / share)}, or a larger share"
            )
        own = request_neurons(model, [requests[number] for number in numbers], k, method)
        chosen |= dict(zip(numbers, without_common(own, share), strict=True))
    return [chosen[number] for number in range(len(requests))]


def random_neurons(model: LanguageModel, like: Sequence[Neurons], seed: int) -> list[Neurons]:
    """As many neurons of each request, drawn from all of the model's; the control of Dai et al."""
    rng = np.random.default_rng(seed)
    config = model.config
    drawn = [rng.choice(config.n_layers * config.d_mlp, len(own.layer_k), replace=False) for own in like]
    return [Neurons(*np.divmod(np.sort(places), config.d_mlp)) for places in drawn]


def dai_outcomes(
    model: LanguageModel,
    requests: Sequence[Request],
    others: Sequence[Request],
    neurons: Sequence[Neurons],
    *,
    method: str = "update",
    settings: object | None = None,
) -> list[dict[str, float]]:
    """The columns `DAI_COLUMNS` of each request, edited alone in the unedited model.

    A request without neurons is not edited: its columns are NaN, so that it is in no mean and counted. Put the list
    into `summary(outcomes, columns=DAI_COLUMNS)`.

    Args:
      model: causal or masked.
      requests: with old answers that the model says.
      others: facts whose old answers are looked at, inside and across relations; a request with the same prompt and
        old answer as the edited one is left out.
      neurons: of each request.
      method: an editing method that reads neurons.
      settings: its settings; None is the defaults.
    Raises:
      UserError: if there are not as many neurons as requests, an old answer is not given, or as `edit`.
    """
    if len(neurons) != len(requests):
        raise UserError(f"there are neurons of {len(neurons)} requests for {len(requests)}; give one set each")
    before, found = answers_said(model, others), []
    for asked, own in zip(requests, neurons, strict=True):
        if not len(own.layer_k):
            found.append(dict.fromkeys(DAI_COLUMNS, math.nan) | {"neurons": 0.0})
            continue
        edited = apply(edit(model, asked, method, settings, Given(neurons=[own])), model)
        said = answers_said(edited, [asked, asked], [asked.old, asked.new]).said_N
        columns = {"change_rate": 100.0 * (not said[0]), "success_rate": 100.0 * said[1]}
        after = answers_said(edited, others)
        apart = np.array([(one.prompt, one.old) != (asked.prompt, asked.old) for one in others], bool)
        inside = np.array([one.relation == asked.relation for one in others], bool)
        for name, rows in (("inside", inside & apart), ("across", ~inside)):
            columns[f"{name}_perplexity"] = _perplexity(after, rows) - _perplexity(before, rows)
            columns[f"{name}_probability"] = 100 * (_probability(after, rows) - _probability(before, rows))
        found.append(columns | {"neurons": float(len(own.layer_k))})
    return found


def answers_said(
    model: LanguageModel, requests: Sequence[Request], answers: Sequence[str | None] | None = None
) -> Answered:
    """What a causal or masked model makes of the requests' old answers, or of others.

    Raises:
      UserError: if there is no request, an answer is None, a text cannot be encoded, or an answer has too many tokens.
    """
    answers = [one.old for one in requests] if answers is None else list(answers)
    for one, answer in zip(requests, answers, strict=True):
        if answer is None:
            raise UserError(f"the request {one.prompt!r} has no old answer, which this protocol needs; give it")
    texts = [one.text(answer) for one, answer in zip(requests, answers, strict=True)]
    queries = encode_texts(texts, model.tokenizer, n_ctx=model.config.n_ctx)
    if (most := int(queries.answer_length_N.max())) > ROWS:
        raise UserError(f"an answer has {most} tokens, more than {ROWS}; leave it out")
    log_p_N, said_N, start = np.zeros(len(texts)), np.ones(len(texts), bool), 0
    while start < len(texts):
        ahead = np.arange(start, min(start + ROWS, len(texts)))
        chosen = ahead[np.cumsum(queries.answer_length_N[ahead]) <= ROWS]
        rng, answered = np.random.default_rng(0), range(len(chosen))  # of controls: there are none
        part = queries[chosen]
        batch, _ = query_batch(part, n_sequences=ROWS, n_rows=ROWS, answered=answered, rng=rng, n_controls=0)
        rows = jax.tree.map(jnp.asarray, (batch.tokens_BT, batch.length_B, batch.rows))
        log_p_R, best_R = (np.asarray(x) for x in _answer_rows(model.model, *rows))
        n = int(part.answer_length_N.sum())
        answer_R = np.repeat(chosen, part.answer_length_N)
        np.add.at(log_p_N, answer_R, log_p_R[:n].astype(np.float64))
        np.logical_and.at(said_N, answer_R, best_R[:n])
        start += len(chosen)
    return Answered(log_p_N, queries.answer_length_N, said_N)


@jax.jit
def _answer_rows(model: Model, tokens_BT: Array, length_B: Array, rows: Rows) -> tuple[Array, Array]:
    """log P of each row's token, and whether it is the most probable one."""
    logits_RV = row_logits(model, forward(model, tokens_BT, length_B=length_B), rows)
    log_p_RV = jax.nn.log_softmax(logits_RV.astype(jnp.float32))
    own_R = jnp.take_along_axis(log_p_RV, rows.target_R[:, None], -1)[:, 0]
    return own_R, log_p_RV.argmax(-1) == rows.target_R


def _perplexity(said: Answered, rows: np.ndarray) -> float:
    return float(np.exp(-(said.log_p_N / said.tokens_N)[rows].mean())) if rows.any() else math.nan


def _probability(said: Answered, rows: np.ndarray) -> float:
    return float(np.exp(said.log_p_N[rows]).mean()) if rows.any() else math.nan
