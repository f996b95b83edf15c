"""One prompt under the microscope: which neurons carry its answer, and what switching or doubling them does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from jaxinterp.attribution.adaptive import per_layer_attribution
from jaxinterp.attribution.answers import Answers
from jaxinterp.attribution.edits import amplify, random_mask, suppress
from jaxinterp.attribution.integrated_gradients import PATHS, integrated_gradients
from jaxinterp.attribution.quadrature import integral, quadrature
from jaxinterp.attribution.readout import Readout
from jaxinterp.attribution.selection import check_k, top_k
from jaxinterp.base.errors import UserError, unknown
from jaxinterp.facts.encoding import EncodedQueries, encode_texts, query_batch, tokens_read
from jaxinterp.facts.facts import Text
from jaxinterp.facts.spelling import runs_together
from jaxinterp.metrics.answers import active_neurons
from jaxinterp.metrics.results import promoted_tokens
from jaxinterp.models.chat import chat_prompt
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.readout import read
from jaxinterp.models.tokenizers import TextTokenizer


def inspect_answer(
    model: LanguageModel,
    prompt: str,
    answer: str,
    *,
    k: int = 8,
    rule: str = "adaptive",
    points: int = 20,
    tolerance: float = 0.01,
    path: str = "per_layer",
    seed: int = 0,
    chat: bool = False,
    control_tokens: bool = False,
) -> dict:
    """Attributes the answer's probability after a prompt to neurons, by integrated gradients.

    An answer of several tokens is read token by token, each at its own query position; its probability is the product.
    Its knowledge neurons are the k of the highest attribution summed over its tokens: "suppressed" and "amplified" are
    its probability with these switched off and doubled, and "random" with as many random neurons of each layer off, out
    of those active at the first token's query. The entry of a token has the k neurons of that token's own attribution,
    which are those of the answer if it is its only one.

    Args:
      model: a language model.
      prompt: text that ends just before the answer; for a masked language model, text with its mask token ("[MASK]") in
        place of the answer. It is read as it stands, white space included.
      answer: what should follow, or stand there, as it stands: " Paris" after "The capital of France is".
      k: neurons of the answer, and of each token's entry, out of all layers.
      rule, points, tolerance: see `jaxinterp.attribution.quadrature.integral`.
      path: of integrated gradients; the adaptive rule is for the per-layer one.
      seed: of the random neurons.
      chat: whether the prompt is a message to a model that converses, put into its chat template.
      control_tokens: whether names of control tokens in prompt and answer, as "<|im_end|>", mean those tokens.
    Returns:
      {"prompt", "answer", "read" (see `jaxinterp.facts.encoding.tokens_read`), "notes" (what may surprise in that, a
      sentence each), "probability", "suppressed", "amplified", "random" (probabilities), "tokens": one entry an
      answer token: {"token", "probability", "predicted", "completeness_residual" (largest in absolute value),
      "neurons": k entries {"layer", "neuron", "score" (probability), "share" (of the token's positive scores; None of a
      score that is not positive), "activation", "promotes"}}}.
    Raises:
      UserError: if the text has words that the tokenizer does not know, spells out control tokens that are not asked
        for, or does not fit the context, the answer has no tokens of its own, or k, the rule or the path does not
        exist.
    """
    if path not in PATHS:
        raise unknown("path", path, PATHS)
    check_k(k, model.config.n_neurons)
    queries, notes = _query(model, prompt, answer, chat, control_tokens)
    n_rows = int(queries.answer_length_N[0])
    rng = np.random.default_rng(0)  # of controls: there are none
    batch, _ = query_batch(queries, n_sequences=1, n_rows=n_rows, answered=[0], rng=rng, n_controls=0)
    readout, logits_RV = read(model.model, batch.tokens_BT, batch.rows, batch.length_B)
    if path == "per_layer":
        attribution = per_layer_attribution(readout, integral(rule, points, tolerance))
    elif rule == "adaptive":
        raise UserError("the adaptive rule is for the per_layer path; on the joint path choose another rule")
    else:
        fixed = quadrature(rule, points)
        attribution = jax.jit(lambda readout: integrated_gradients(readout, fixed, path="joint"))(readout)
    found = jax.device_get(
        {
            "scores": attribution.scores_LRF,
            "activations": readout.neurons_LRF,
            "residual": attribution.residual_PR,
            "predicted": logits_RV.argmax(-1),
            "tokens": readout.untouched(),
            "probability": readout.untouched().prod(),
            **_edited(readout, batch.answers, attribution.scores_LRF, jax.random.key(seed), k),
        }
    )
    return {
        "prompt": prompt,
        "answer": answer,
        "read": tokens_read(queries, 0, model.tokenizer),
        "notes": notes,
        **{name: float(found[name]) for name in ("probability", "suppressed", "amplified", "random")},
        "tokens": [_row(model, found, row, int(batch.rows.target_R[row]), k) for row in range(n_rows)],
    }


@functools.partial(jax.jit, static_argnums=4)
def _edited(readout: Readout, answers: Answers, scores_LRF: Array, key: PRNGKeyArray, k: int) -> dict[str, Array]:
    """P of the whole answer under each edit; every row is one of its tokens."""
    mask = top_k(answers.scores(scores_LRF), k)
    active = active_neurons(readout.neurons_LRF)
    at_random = jnp.broadcast_to(random_mask(key, mask[:, :1], active[:, :1]), mask.shape)
    edits = {"suppressed": suppress(mask), "amplified": amplify(mask), "random": suppress(at_random)}
    return {name: readout(*edit).prod() for name, edit in edits.items()}


def _query(
    model: LanguageModel, prompt: str, answer: str, chat: bool, control_tokens: bool
) -> tuple[EncodedQueries, list[str]]:
    """The text as tokens, and notes on how it was read."""
    tokenizer, text = model.tokenizer, Text(prompt, answer, "")
    if chat:
        text = Text(chat_prompt(tokenizer, prompt), answer, "")
    elif tokenizer.mask is not None:
        mask = tokenizer.token(tokenizer.mask)
        if prompt.count(mask) != 1:
            raise UserError(
                f"{model.config.attention} models are asked with {mask} in place of the answer, once; the prompt "
                f"{prompt!r} has it {prompt.count(mask)} times"
            )
        before, after = prompt.split(mask)
        # The space before a mask is its token's, as it is the answer's.
        spaced = before.endswith(" ") and not answer.startswith(" ")
        text = Text(before[:-1], f" {answer}", after) if spaced else Text(before, answer, after)
    if not answer.strip() or not (text.before.strip() or text.after.strip()):
        raise UserError(f"neither prompt nor answer may be empty, got {prompt!r} and {answer!r}")
    queries = encode_texts([text], tokenizer, n_ctx=model.config.n_ctx, control_tokens=control_tokens or chat)
    return queries, _notes(text, queries, tokenizer, chat)


def _notes(text: Text, queries: EncodedQueries, tokenizer: TextTokenizer, chat: bool) -> list[str]:
    notes = []
    if runs_together(text.before, text.answer):
        notes.append(
            f"there is no space between {text.before.split()[-1]!r} and {text.answer.split()[0]!r}; if the answer is a "
            f"word of its own, ask for {' ' + text.answer!r}"
        )
    start = int(queries.answer_start_N[0])
    own = queries.tokens_NT[0, start : start + int(queries.answer_length_N[0])].tolist()
    whole = tokenizer.encode(text.before + text.answer, control_tokens=True)
    if tokenizer.mask is None and whole[len(whole) - len(own) :] != own:
        notes.append("prompt and answer were turned into tokens one after the other: as one text they have others")
    if tokenizer.chat is not None and not chat:
        notes.append("the model was taught to converse, and the prompt was read as plain text; --chat is its template")
    return notes


def _row(model: LanguageModel, found: dict, row: int, token: int, k: int) -> dict:
    scores, activations = found["scores"][:, row], found["activations"][:, row]
    # Of a signed sum there is no share: scores that cancel make it any number.
    positive = scores.sum(where=scores > 0)
    best = np.argsort(-scores, axis=None, kind="stable")[:k]
    neurons = [
        {
            "layer": int(layer),
            "neuron": int(neuron),
            "score": float(scores[layer, neuron]),
            "share": float(scores[layer, neuron] / positive) if scores[layer, neuron] > 0 else None,
            "activation": float(activations[layer, neuron]),
            "promotes": promoted_tokens(model, int(layer), int(neuron), activation=float(activations[layer, neuron])),
        }
        for layer, neuron in zip(*np.unravel_index(best, scores.shape), strict=True)
    ]
    residual = found["residual"][:, row]
    return {
        "token": model.tokenizer.token(token),
        "probability": float(found["tokens"][row]),
        "predicted": model.tokenizer.token(int(found["predicted"][row])),
        "completeness_residual": float(residual[np.abs(residual).argmax()]),
        "neurons": neurons,
    }
