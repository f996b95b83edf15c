"""One prompt under the microscope: which neurons carry its answer, and what switching or doubling them does."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.attribution import PATHS, integrated_gradients
from jaxinterp.errors import UserError, unknown
from jaxinterp.metrics.results import promoted_tokens
from jaxinterp.models.bundle import LanguageModel
from jaxinterp.models.tokenizers import BOS, UNK
from jaxinterp.models.transformer import forward
from jaxinterp.quadrature import quadrature
from jaxinterp.readout import CAPTURE, Rows, causal_readout
from jaxinterp.selection import top_k
from jaxinterp.suppression import amplify, random_mask, suppress


def inspect_answer(
    model: LanguageModel,
    prompt: str,
    answer: str,
    *,
    k: int = 8,
    points: int = 20,
    rule: str = "midpoint",
    path: str = "per_layer",
    seed: int = 0,
) -> dict:
    """Attributes the answer's probability after a prompt to neurons, by integrated gradients.

    An answer of several tokens is read token by token, each at its own query position with its own k neurons; its
    probability is the product.

    Args:
      model: a causal language model.
      prompt: text that ends just before the answer.
      answer: what should follow.
      k: neurons an answer token, out of all layers.
      points, rule, path: of the integral.
      seed: of the random neurons.
    Returns:
      {"prompt", "answer", "probability", "suppressed", "amplified", "random" (probabilities), "tokens": one entry an
      answer token: {"token", "probability", "predicted", "completeness_residual" (largest in absolute value),
      "neurons": k entries {"layer", "neuron", "score" (probability), "share" (of the token's scores), "promotes"}}}.
    Raises:
      UserError: if the text has words that the tokenizer does not know or does not fit the context, the answer has no
        tokens of its own, or k, the rule or the path does not exist.
    """
    if path not in PATHS:
        raise unknown("path", path, PATHS)
    tokens, start = _tokens(model, prompt, answer)
    n_rows = len(tokens) - start
    position = jnp.arange(start - 1, len(tokens) - 1)
    rows = Rows(jnp.zeros(n_rows, jnp.int32), position, jnp.asarray(tokens[start:]))
    integral = quadrature(rule, points)

    @jax.jit
    def measured(params: dict, tokens_BT: jax.Array, key: jax.Array) -> dict:
        result = forward(model.config, params, tokens_BT, capture=CAPTURE)
        readout = causal_readout(model.config, params, result, rows)
        attribution = integrated_gradients(readout, integral, path=path)
        mask = top_k(attribution.scores_LRF, k)
        edits = {"suppressed": suppress(mask), "amplified": amplify(mask), "random": suppress(random_mask(key, mask))}
        return {
            "scores": attribution.scores_LRF,
            "residual": attribution.residual_PR,
            "predicted": result.logits_BTV[0, position].argmax(-1),
            "tokens": readout.untouched(),
            "probability": readout.untouched().prod(),
            **{name: readout(*edit).prod() for name, edit in edits.items()},
        }

    found = jax.device_get(measured(model.params, jnp.asarray(tokens)[None], jax.random.key(seed)))
    return {
        "prompt": prompt,
        "answer": answer,
        **{name: float(found[name]) for name in ("probability", "suppressed", "amplified", "random")},
        "tokens": [_row(model, found, row, int(tokens[start + row]), k) for row in range(n_rows)],
    }


def _tokens(model: LanguageModel, prompt: str, answer: str) -> tuple[np.ndarray, int]:
    """<bos>, prompt and answer, and where the answer starts."""
    whole, before = (model.tokenizer.encode(text) for text in (f"{prompt} {answer}", prompt))
    if UNK in whole.tokens:
        start, end = whole.offsets[whole.tokens.index(UNK)]
        raise UserError(
            f"the model does not know the word {f'{prompt} {answer}'[start:end]!r}; it was trained on the words of its "
            "facts alone"
        )
    if not before.ids or whole.ids[: len(before.ids)] != before.ids or len(whole.ids) == len(before.ids):
        raise UserError(
            f"the answer {answer!r} cannot be told from the prompt {prompt!r} in tokens; neither may be empty"
        )
    if len(whole.ids) + 1 > model.config.n_ctx:
        raise UserError(
            f"prompt and answer have {len(whole.ids) + 1} tokens, above the model's context of {model.config.n_ctx}; "
            "use a shorter prompt"
        )
    bos = model.tokenizer.token_to_id(BOS)
    return np.array([bos, *whole.ids], np.int32), 1 + len(before.ids)


def _row(model: LanguageModel, found: dict, row: int, token: int, k: int) -> dict:
    scores = found["scores"][:, row]
    best = np.argsort(-scores, axis=None, kind="stable")[:k]
    neurons = [
        {
            "layer": int(layer),
            "neuron": int(neuron),
            "score": float(scores[layer, neuron]),
            "share": float(scores[layer, neuron] / scores.sum()),
            "promotes": promoted_tokens(model, int(layer), int(neuron)),
        }
        for layer, neuron in zip(*np.unravel_index(best, scores.shape), strict=True)
    ]
    residual = found["residual"][:, row]
    return {
        "token": model.tokenizer.id_to_token(token),
        "probability": float(found["tokens"][row]),
        "predicted": model.tokenizer.id_to_token(int(found["predicted"][row])),
        "completeness_residual": float(residual[np.abs(residual).argmax()]),
        "neurons": neurons,
    }
