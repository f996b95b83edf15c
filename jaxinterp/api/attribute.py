"""The question of an attribution: a prompt and its answer as tokens, and the neurons that carry the answer."""

import dataclasses

import jax
import numpy as np

from jaxinterp.api.attributed import Attributed
from jaxinterp.attribution.adaptive import attribution_by
from jaxinterp.attribution.integrated_gradients import PATHS, Path
from jaxinterp.attribution.selection import check_k
from jaxinterp.base.errors import UserError, unknown
from jaxinterp.facts.batches import query_batch
from jaxinterp.facts.encoding import EncodedQueries, encode_texts, tokens_read
from jaxinterp.facts.facts import Text
from jaxinterp.facts.spelling import runs_together
from jaxinterp.models.chat import chat_prompt
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.readout import read
from jaxinterp.models.tokenizers import TextTokenizer

MULTIPLE = 8  # of tokens, of the arrays that a prompt is read in


def attribute(
    model: LanguageModel,
    prompt: str,
    answer: str,
    *,
    k: int = 8,
    rule: str = "adaptive",
    points: int = 20,
    tolerance: float = 0.01,
    path: Path = "per_layer",
    chat: bool = False,
    control_tokens: bool = False,
    seed: int = 0,
) -> Attributed:
    """Attributes the probability of an answer after a prompt to neurons, by integrated gradients.

    Args:
      model: a language model, as from `load_model`.
      prompt: text that ends just before the answer; for a masked language model, text with its mask token ("[MASK]") in
        place of the answer. It is read as it stands, white space included.
      answer: what should follow, or stand there, as it stands: " Paris" after "The capital of France is".
      k: knowledge neurons of the answer, out of all layers; methods of the result take another k as well.
      rule, points, tolerance: see `jaxinterp.attribution.quadrature.integral`.
      path: of integrated gradients; the adaptive rule is for the per_layer one.
      chat: whether the prompt is a message to a model that converses, put into its chat template.
      control_tokens: whether names of control tokens in prompt and answer, as "<|im_end|>", mean those tokens.
      seed: of random neurons.
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
    attribution = attribution_by(readout, rule, points, tolerance, path)
    predicted_R, probability = jax.device_get((logits_RV.argmax(-1), readout.untouched().prod()))
    place = tokens_read(queries, 0, model.tokenizer)
    return Attributed(
        prompt=prompt,
        answer=answer,
        tokens=tuple(place["tokens"]),
        answer_place=tuple(place["answer"]),
        notes=tuple(notes),
        probability=float(probability),
        probability_R=readout.untouched(),
        predicted=tuple(model.tokenizer.token(int(token)) for token in predicted_R),
        scores_LRF=attribution.scores_LRF,
        activations_LRF=readout.neurons_LRF,
        residual_PR=attribution.residual_PR,
        k=k,
        seed=seed,
        readout=readout,
        model=model,
    )


def _query(
    model: LanguageModel, prompt: str, answer: str, chat: bool, control_tokens: bool
) -> tuple[EncodedQueries, list[str]]:
    """The prompt and the answer as tokens, and notes on how they were read."""
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
    try:
        queries = encode_texts([text], tokenizer, n_ctx=model.config.n_ctx, control_tokens=control_tokens or chat)
    except UserError as error:
        if runs_together(text.before, text.answer):
            raise UserError(
                f"{error}; did you mean the answer {' ' + text.answer!r}, with a space before it?"
            ) from None
        raise
    notes = _notes(text, queries, tokenizer, chat)
    # Prompts of nearly the same length share what is compiled.
    n = queries.tokens_NT.shape[1]
    more = min(model.config.n_ctx, -(-n // MULTIPLE) * MULTIPLE) - n
    padded = np.pad(queries.tokens_NT, ((0, 0), (0, max(0, more))), constant_values=tokenizer.pad)
    return dataclasses.replace(queries, tokens_NT=padded), notes


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
