"""The tuned lens (Belrose et al. 2023): an affine translator for each layer, fitted to what the model says in the end.

A translator is h ↦ h + h A_l + b_l, from the residual stream after layer l to the one after the last layer; A and b
begin at 0, the logit lens. It is fitted by the mean over positions of KL(p_final ‖ p_l), p_l the model's own final norm
and unembedding of the translated stream.

Deviations: Adam with a rate that falls to 0, in place of SGD with momentum and a clipped gradient; no weight decay; the
last layer has a translator as well, which stays the identity, whose KL is 0.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.base.progress import waiting
from jaxinterp.memories.corpus import Corpus
from jaxinterp.memories.lens import Lens, lens_kind, resid_logits
from jaxinterp.models.fit import fit
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward


@dataclasses.dataclass(frozen=True)
class TunedConfig:
    """How translators are fitted."""

    steps: int = 300
    batch: int = 16  # windows of the corpus in a step, drawn with replacement
    learning_rate: float = 2e-3  # of Adam, at the first step; it falls to 0 along a line
    skip: int = 1  # positions at the beginning of a window that do not count

    def __post_init__(self) -> None:
        check_numbers(self, "tuned.")
        if min(self.steps, self.batch) < 1 or self.skip < 0 or self.learning_rate <= 0:
            raise UserError("tuned.steps and batch must be at least 1, skip at least 0, and learning_rate above 0")


def tuned_lens(model: Model, corpus: Corpus, config: TunedConfig = TunedConfig(), seed: int = 0) -> Lens:
    """Fits a translator for every layer.

    Args:
      model: the model, which does not change.
      corpus: texts to fit on.
      config: the fit.
      seed: of the windows that are drawn for each step.
    Raises:
      UserError: if no window has a position that counts.
    """
    long_enough = np.flatnonzero(np.asarray(corpus.length_N) > config.skip)
    if not len(long_enough):
        raise UserError(f"no text of the corpus has more than {config.skip} tokens; give longer texts or a lower skip")
    window_SB = np.random.default_rng([seed, 1]).choice(long_enough, (config.steps, config.batch))
    inputs = (np.asarray(corpus.tokens_NT)[window_SB], np.asarray(corpus.length_N)[window_SB])
    with waiting("fitting the tuned lens"):
        params = jax.block_until_ready(_fitted(model, inputs, config))
    return _lens(model, params)


def lens_divergence(
    model: Model, lens: Lens, corpus: Corpus, *, skip: int = 1, batch: int = 16
) -> Float[np.ndarray, " L"]:
    """KL(p_final ‖ p_l) after each layer by a lens, in nats; a mean over the positions of a corpus from `skip` on."""
    total, n = np.zeros(model.config.n_layers), 0.0
    for start in range(0, len(corpus.tokens_NT), batch):
        window_B = np.arange(start, start + batch).clip(max=len(corpus.tokens_NT) - 1)
        length_B = np.where(np.arange(start, start + batch) == window_B, np.asarray(corpus.length_N)[window_B], 0)
        sums_L, count = _divergence(model, lens, np.asarray(corpus.tokens_NT)[window_B], length_B, skip)
        total, n = total + np.asarray(sums_L), n + float(count)
    return total / n


@lens_kind("tuned")
def tuned(model: Model, corpus: Corpus, seed: int = 0) -> Lens:
    """v · (1 + A_l) · diag(s) · E, with h ↦ h + h A_l + b_l the affine map of the residual stream after layer l that is
    fitted to the model's final distribution by KL (Belrose et al. 2023). A value vector goes through the linear part,
    since it is what a neuron adds to the stream for each unit of activation; b_l is the same for all neurons.
    """
    return tuned_lens(model, corpus, TunedConfig(), seed)


def _lens(model: Model, params: dict[str, Array]) -> Lens:
    matrix_LDD = params["matrix"] + jnp.eye(model.config.d_model)[None]
    return Lens("tuned", matrix_LDD=matrix_LDD, shift_LD=params["shift"])


@functools.partial(jax.jit, static_argnames="config")
def _fitted(model: Model, inputs: tuple[Array, Array], config: TunedConfig) -> dict[str, Array]:
    n_layers, d_model = model.config.n_layers, model.config.d_model
    zero = {"matrix": jnp.zeros((n_layers, d_model, d_model)), "shift": jnp.zeros((n_layers, d_model))}

    def loss(params: dict[str, Array], batch: tuple[Array, Array]) -> Float[Array, ""]:
        sums_L, n = _divergence(model, _lens(model, params), *batch, config.skip)
        return sums_L.sum() / jnp.maximum(n, 1)

    rate = optax.linear_schedule(config.learning_rate, 0.0, config.steps)
    return fit(jax.grad(loss), zero, optax.adam(rate), inputs)


@jax.jit
def _divergence(
    model: Model, lens: Lens, tokens_BT: Array, length_B: Array, skip: Array | int
) -> tuple[Float[Array, " L"], Float[Array, ""]]:
    """Sums of KL over a batch's positions after each layer, and how many positions there are."""
    position_T = jnp.arange(tokens_BT.shape[1])
    weight_BT = ((position_T[None] >= skip) & (position_T[None] < length_B[:, None])).astype(jnp.float32)
    result = forward(model, tokens_BT, length_B=jnp.maximum(length_B, 1), capture=("resid_post",))
    final_NV = jax.nn.log_softmax(result.logits_BTV).reshape(-1, model.config.d_vocab)
    resid_LND = result.activations["resid_post"].reshape(model.config.n_layers, -1, model.config.d_model)

    # A layer at a time, and again in a backward pass, so that the logits of one are held.
    @jax.checkpoint
    def of_layer(x: tuple[Array, Array]) -> Float[Array, ""]:
        log_p_NV = jax.nn.log_softmax(resid_logits(model, lens, *x))
        return ((jnp.exp(final_NV) * (final_NV - log_p_NV)).sum(-1) * weight_BT.ravel()).sum()

    sums_L = jax.lax.map(of_layer, (jnp.arange(model.config.n_layers), resid_LND))
    return sums_L, weight_BT.sum()
