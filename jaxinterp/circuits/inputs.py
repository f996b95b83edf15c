"""How much of an answer's probability each token of the prompt, and each head, is responsible for.

The integrated gradients of neurons (Sundararajan et al. 2017), with other gates: of tokens' embeddings, of heads.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from rich.table import Table

from jaxinterp.attribution.adaptive import attribution_by
from jaxinterp.attribution.integrated_gradients import Path
from jaxinterp.attribution.readout import EVALUATION_BYTES, FunctionReadout
from jaxinterp.base.errors import UserError, unknown
from jaxinterp.circuits.cells import largest
from jaxinterp.facts.encoding import encode_texts
from jaxinterp.facts.facts import Text
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.places import Change
from jaxinterp.models.transformer import embed, forward, unembed
from jaxinterp.report.shown import Part, Shown

if TYPE_CHECKING:
    from jaxinterp.report.charts import Chart

SHOWN = 10
Of = Literal["tokens", "heads"]
BASELINES = ("zero", "mean")


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class PartsAttributed(Shown):
    """An answer's probability, attributed to tokens of the prompt or to heads. Printed, it is a table."""

    prompt: str
    answer: str
    of: Of
    names: tuple[str, ...]  # of the columns: tokens of the prompt, or heads
    scores_LN: Float[np.ndarray, "L N"]  # in units of probability; tokens have one row
    probability: float  # of the answer
    start: float  # and at the beginning of the path; on the per_layer path that of each layer differs, this is NaN
    residual: float  # largest completeness residual: Σ scores − (P at the path's end − P at its start)

    def best(self, n: int = SHOWN) -> list[tuple[str, float]]:
        """The n highest scores, in absolute value, by name; repeated tokens have their position before them."""
        found = largest(self.scores_LN, n)
        repeated = {name for name, count in Counter(self.names).items() if count > 1}
        names = [f"{place}: {name}" if name in repeated else name for place, name in enumerate(self.names)]
        return [
            (names[column] if self.of == "tokens" else f"{row}.{names[column]}", value) for row, column, value in found
        ]

    def chart(self) -> "Chart":
        """A heat map of the scores."""
        from jaxinterp.report.heat_maps import one_map  # altair takes a while to import

        rows = [""] if self.of == "tokens" else None
        columns = [f"{number} {name}" for number, name in enumerate(self.names)] if rows else self.names
        title = f"{self.prompt!r} → {self.answer!r}: score in units of probability"
        return one_map(
            self.scores_LN, columns, title, rows=rows, rows_title="" if rows else "layer", columns_title=self.of[:-1]
        )

    def __repr__(self) -> str:
        return f"PartsAttributed({self.prompt!r} → {self.answer!r}, {self.of}, P = {self.probability:.4f})"

    def parts(self) -> Sequence[Part]:
        table = Table(self.of[:-1], "score", title=f"{self.of} by score", title_justify="left")
        for name, score in self.best():
            table.add_row(name, f"{score:+.4f}")
        first = f"{self.prompt!r} → {self.answer!r}: P = {self.probability:.4f}"
        return [f"{first}, completeness residual {self.residual:.1e}", table]


def attribute_parts(
    model: LanguageModel,
    prompt: str,
    answer: str,
    *,
    of: Of = "tokens",
    rule: str = "adaptive",
    points: int = 20,
    tolerance: float = 0.01,
    path: Path = "per_layer",
    baseline: str = "mean",
) -> PartsAttributed:
    """Attributes the probability of an answer to tokens of the prompt, or to attention heads.

    A = ∫₀¹ ∂P/∂g dα by `rule`. Gates of tokens multiply x − x₀, the difference between a token's embedding and the
    baseline, everywhere at once; gates of heads multiply what each head writes, at all positions: all heads together on
    the joint path, or those of one layer after the other on the per_layer path.

    Args:
      model: a causal language model, as from `load_model`.
      prompt, answer: read exactly as they stand; an answer may have several tokens, whose probabilities are multiplied.
      of: "tokens" or "heads".
      rule, points, tolerance: see `jaxinterp.attribution.quadrature.integral`. P jumps on a path from one text to
        another, as norms take away the size of what they read: a fixed rule needs very many points there, and the
        completeness residual tells.
      path: of heads; the adaptive rule is for the per_layer one. Tokens have one layer, whose paths are the same.
      baseline: of tokens: x₀ is the "mean" of all tokens' embeddings at the token's own position, or "zero", which
        takes learned positions away as well.
    Raises:
      UserError: if the model is not causal, the texts cannot be read, or a choice is unknown.
    """
    if model.config.attention != "causal":
        raise UserError(f"only of causal models; this one is {model.config.attention}")
    if of not in ("tokens", "heads"):
        raise unknown("kind of part", of, ("tokens", "heads"))
    if baseline not in BASELINES:
        raise unknown("baseline", baseline, BASELINES)
    queries = encode_texts([Text(prompt, answer, "")], model.tokenizer, n_ctx=model.config.n_ctx)
    start, length = int(queries.answer_start_N[0]), int(queries.answer_length_N[0])
    tokens_1T = jnp.asarray(queries.tokens_NT[:1, : start + length])
    names = tuple(model.tokenizer.token(int(token)) for token in tokens_1T[0, :start])
    shape = (1, 1, start) if of == "tokens" else (model.config.n_layers, 1, model.config.n_heads)
    gated = Gated(of, start, baseline, min(model.config.d_vocab, model.tokenizer.n_tokens))
    # Of one value: its layers' activations, and logits of the answer.
    numbers = tokens_1T.size * model.config.n_layers * (8 * model.config.d_model + 3 * model.config.d_mlp)
    numbers += length * model.config.d_vocab
    readout = PartsReadout(gated, shape, None, (model.model, tokens_1T), numbers)
    if of == "tokens":  # one layer, whose paths are the same
        path = "per_layer" if rule == "adaptive" else "joint"
    found = attribution_by(readout, rule, points, tolerance, path)
    end, begin = _ends(readout)
    residual = float(max(np.asarray(found.residual_PR).ravel(), key=abs))
    columns = names if of == "tokens" else tuple(map(str, range(model.config.n_heads)))
    scores_LN = np.asarray(found.scores_LRF[:, 0])
    begins = float(begin[0]) if of == "tokens" or path == "joint" else float("nan")
    return PartsAttributed(prompt, answer, of, columns, scores_LN, float(end[0]), begins, residual)


@flax.struct.dataclass
class PartsReadout(FunctionReadout):
    """A readout whose values are full forwards."""

    numbers: int = flax.struct.field(pytree_node=False, default=1)  # that one value keeps for its gradient

    def evaluations_at_once(self) -> int:
        return max(1, EVALUATION_BYTES // (4 * self.numbers))


@jax.jit
def _ends(readout: FunctionReadout) -> tuple[Array, Array]:
    return readout.untouched(), readout(jnp.zeros(readout.shape))


@dataclasses.dataclass(frozen=True)
class Gated:
    """(gates [L, 1, N], model, tokens [1, T]) -> P [1] of the tokens from `start` on, parts multiplied by their gates.

    A value, so that what is compiled for one serves for all that are equal to it.
    """

    of: Of
    start: int
    baseline: str
    n_tokens: int  # of the vocabulary, without what only pads the model's

    def __call__(self, gates_L1N: Float[Array, "L 1 N"], model: Model, tokens_1T: Array) -> Float[Array, " 1"]:
        n, start = tokens_1T.shape[1], self.start
        if self.of == "heads":
            changes = {"attn_z": Change(gates_L1N[:, :, None, :, None])}
        else:
            gates_1T1 = jnp.pad(gates_L1N[0], ((0, 0), (0, n - start)), constant_values=1.0)[..., None]
            shift = None
            if self.baseline == "mean":
                shift = (1 - gates_1T1) * mean_embedding(model, self.n_tokens, n)[None]
            changes = {"embed": Change(gates_1T1, shift)}
        resid = forward(model, tokens_1T, edit=changes).resid_final_BTD[0, start - 1 : n - 1]
        log_p = jax.nn.log_softmax(unembed(model, resid))
        return jnp.exp(jnp.take_along_axis(log_p, tokens_1T[0, start:, None], axis=-1).sum())[None]


def mean_embedding(model: Model, n_tokens: int, n_positions: int) -> Float[Array, "T D"]:
    """The mean over the vocabulary of what the first layer reads, at each position: learned positions stay."""
    vocabulary, position_1T = jnp.arange(n_tokens)[None], jnp.arange(n_positions)[None]
    mean_D = embed(model, vocabulary, jnp.zeros_like(vocabulary)).mean((0, 1))
    one = jnp.zeros_like(position_1T)
    return (embed(model, one, position_1T) - embed(model, one, one))[0] + mean_D[None]
