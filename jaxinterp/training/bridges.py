"""Bridges between the residual streams of two models, as from a dense one to a sparse one that is easier to read."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.models.fit import fit
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.places import Change
from jaxinterp.models.transformer import forward, unembed
from jaxinterp.training.finetune_step import divergence

RIDGE = 1e-6  # of the mean variance of a coordinate: what least squares adds to each
FIRST = 64  # windows, at most, on which the bridges begin as least squares


@dataclasses.dataclass(frozen=True)
class BridgeConfig:
    """How bridges are trained."""

    steps: int = 300  # of Adam, after least squares; 0 is least squares alone
    windows: int = 8  # windows of text a step
    learning_rate: float = 3e-4
    mse: float = 1.0  # weight of the normalised squared errors, of the mean over boundaries and both ways
    kl: float = 1.0  # weight of the hybrids' KL, likewise; nats a token
    seed: int = 0  # of the order of windows

    def __post_init__(self) -> None:
        check_numbers(self, "bridges.")
        for field, least in (("steps", 0), ("windows", 1), ("mse", 0), ("kl", 0), ("seed", 0)):
            if getattr(self, field) < least:
                raise UserError(f"bridges.{field} must be at least {least}, got {getattr(self, field)}")
        if self.learning_rate <= 0:
            raise UserError(f"bridges.learning_rate must be above 0, got {self.learning_rate}")


class Maps(NamedTuple):
    """An affine map for each boundary: before each layer, and after the last one."""

    weight: Float[Array, "boundary n_in n_out"]
    bias: Float[Array, "boundary n_out"]

    def __call__(self, resid: Float[Array, "boundary B T n_in"]) -> Float[Array, "boundary B T n_out"]:
        """What each map makes of the residual stream at its boundary."""
        return jnp.einsum("xbti,xio->xbto", resid, self.weight) + self.bias[:, None, None]


class Bridges(NamedTuple):
    """Both ways between two models."""

    encoder: Maps  # dense -> sparse
    decoder: Maps  # sparse -> dense


class BridgeScores(NamedTuple):
    """How good bridges are on text; arrays have an entry for each boundary."""

    explained_sparse: Float[np.ndarray, " boundary"]  # 1 − normalised squared error of the encoded stream; 1 is best
    explained_dense: Float[np.ndarray, " boundary"]  # that of the decoded stream
    kl_sparse_above: Float[np.ndarray, " boundary"]  # KL(dense ‖ dense below, sparse above), nats a token; 0 is best
    kl_dense_above: Float[np.ndarray, " boundary"]  # KL(dense ‖ sparse below, dense above)
    kl_sparse: float  # KL(dense ‖ sparse), without any bridge, to compare with


def train_bridges(
    dense: LanguageModel,
    sparse: LanguageModel,
    training_NT: Int[np.ndarray, "N T"],
    held_out_NT: Int[np.ndarray, "H T"],
    config: BridgeConfig = BridgeConfig(),
) -> tuple[Bridges, BridgeScores]:
    """Trains bridges between two models, which stay as they are (Gao et al. 2025, section on bridges).

    loss = mse · mean[|s − enc(d)|² / |s − s̄|² + |d − dec(s)|² / |d − d̄|²] + kl · mean[KL(dense ‖ dense below, sparse
    above) + KL(dense ‖ sparse below, dense above)], means over the L + 1 boundaries; a hybrid crosses one of them. Sums
    are over a batch's tokens and coordinates, and s̄ is a coordinate's mean over the batch.

    Both models are given here, and maps are affine and begin as least squares; the paper trains the sparse model along
    with the bridges, and its encoder has an activation function.

    All hybrids of a batch run at once, so that memory holds the logits of 2 (L + 1) forwards.

    Args:
      dense, sparse: causal models of one tokenizer and number of layers, of any width.
      training_NT, held_out_NT: windows of tokens without padding, as of `jaxinterp.training.texts.TextData`.
      config: the run.
    Returns:
      The bridges, and their scores on the held-out windows: means over batches of `config.windows`.
    Raises:
      UserError: if the models do not fit, or there are no windows.
    """
    _check(dense, sparse, training_NT, held_out_NT)
    models = dense.model, sparse.model
    bridges = jax.jit(_least_squares)(models, jnp.asarray(training_NT[:FIRST]))
    if config.steps:
        rows = np.random.default_rng(config.seed).integers(0, len(training_NT), (config.steps, config.windows))

        @jax.jit
        def trained(models: tuple[Model, Model], start: Bridges, tokens_SBT: Array) -> Bridges:
            def loss(bridges: Bridges, tokens_BT: Array) -> Array:
                scores = _scores(models, bridges, tokens_BT)
                errors = 2 - scores.explained_sparse - scores.explained_dense
                return (config.mse * errors + config.kl * (scores.kl_sparse_above + scores.kl_dense_above)).mean()

            return fit(jax.grad(loss), start, optax.adam(config.learning_rate), tokens_SBT)

        bridges = trained(models, bridges, jnp.asarray(training_NT[rows]))
    return bridges, bridge_scores(dense, sparse, bridges, held_out_NT, config.windows)


def bridge_scores(
    dense: LanguageModel,
    sparse: LanguageModel,
    bridges: Bridges,
    windows_NT: Int[np.ndarray, "N T"],
    windows: int = 8,
) -> BridgeScores:
    """The scores of bridges on windows of text: means over batches of so many, each by its number of windows."""
    of_batch, models = jax.jit(_scores), (dense.model, sparse.model)
    parts = [windows_NT[start : start + windows] for start in range(0, len(windows_NT), windows)]
    found = [jax.device_get(of_batch(models, bridges, jnp.asarray(part))) for part in parts]
    shares = [len(part) / len(windows_NT) for part in parts]
    means = jax.tree.map(lambda *values: sum(s * v for s, v in zip(shares, values, strict=True)), *found)
    return means._replace(kl_sparse=float(means.kl_sparse))


def streams(model: Model, tokens_BT: Int[Array, "B T"]) -> tuple[Float[Array, "boundary B T D"], Float[Array, "B T V"]]:
    """The residual stream at every boundary, and the logits."""
    result = forward(model, tokens_BT, capture=("resid_pre",))
    resid = jnp.concatenate([result.activations["resid_pre"], result.resid_final_BTD[None]])
    return resid, result.logits_BTV


def continued(
    model: Model, tokens_BT: Int[Array, "B T"], resid: Float[Array, "boundary B T D"]
) -> Float[Array, "boundary B T V"]:
    """The logits of a model that goes on, from each boundary, with a residual stream which is given there."""
    n_layers = model.config.n_layers

    def from_layer(layer: Array, given_BTD: Array) -> Array:
        here_L = jnp.arange(n_layers) == layer
        gates = jnp.where(here_L, 0, 1).astype(given_BTD.dtype)[:, None, None, None]
        change = Change(gates, (1 - gates) * given_BTD[None])
        return forward(model, tokens_BT, edit={"resid_pre": change}).logits_BTV

    logits = jax.vmap(from_layer)(jnp.arange(n_layers), resid[:-1])
    return jnp.concatenate([logits, unembed(model, resid[-1])[None]])


def _scores(models: tuple[Model, Model], bridges: Bridges, tokens_BT: Array) -> BridgeScores:
    dense, sparse = models
    (of_dense, logits_BTV), (of_sparse, sparse_BTV) = (streams(model, tokens_BT) for model in models)
    encoded, decoded = bridges.encoder(of_dense), bridges.decoder(of_sparse)
    weight_BT = jnp.ones(tokens_BT.shape, logits_BTV.dtype)

    def explained(x: Array, predicted: Array) -> Array:
        centred = x - x.mean((1, 2), keepdims=True)
        return 1 - jnp.square(x - predicted).sum((1, 2, 3)) / jnp.square(centred).sum((1, 2, 3))

    kl: Callable[[Array], Array] = jax.vmap(lambda other_BTV: divergence(logits_BTV, other_BTV, weight_BT))
    return BridgeScores(
        explained(of_sparse, encoded),
        explained(of_dense, decoded),
        kl(continued(sparse, tokens_BT, encoded)),
        kl(continued(dense, tokens_BT, decoded)),
        divergence(logits_BTV, sparse_BTV, weight_BT),
    )


def _least_squares(models: tuple[Model, Model], tokens_BT: Array) -> Bridges:
    of_dense, of_sparse = (streams(model, tokens_BT)[0] for model in models)
    solve = jax.vmap(_affine)
    return Bridges(Maps(*solve(of_dense, of_sparse)), Maps(*solve(of_sparse, of_dense)))


def _affine(x_BTI: Array, y_BTO: Array) -> tuple[Array, Array]:
    """Weight and bias with which x predicts y best."""
    x, y = (z.reshape(-1, z.shape[-1]) for z in (x_BTI, y_BTO))
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean[None], y - y_mean[None]
    square = x.T @ x
    ridge = RIDGE * jnp.trace(square) / len(square) * jnp.eye(len(square), dtype=square.dtype)
    weight = jnp.linalg.solve(square + ridge, x.T @ y)
    return weight, y_mean - x_mean @ weight


def _check(dense: LanguageModel, sparse: LanguageModel, *windows: Int[np.ndarray, "_ T"]) -> None:
    if dense.config.n_layers != sparse.config.n_layers:
        raise UserError(
            f"bridges need models of as many layers, got {dense.config.n_layers} (dense) and {sparse.config.n_layers}"
        )
    vocabularies = [model.tokenizer.backend.get_vocab(with_added_tokens=True) for model in (dense, sparse)]
    if vocabularies[0] != vocabularies[1] or dense.config.d_vocab != sparse.config.d_vocab:
        raise UserError("bridges need models with the same tokenizer and vocabulary, and these have not")
    if any(model.config.attention != "causal" for model in (dense, sparse)):
        raise UserError("bridges need causal models, for their hybrids predict the next token")
    if any(len(of) == 0 for of in windows):
        raise UserError("bridges need at least one window of text to train on, and one that is held out")
