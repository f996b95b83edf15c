"""How memories make up a prediction, in a layer and from layer to layer (Geva et al. 2021, § 5; 2022, § 5)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxinterp.memories.examples import Examples
from jaxinterp.memories.lens import Lens, in_chunks, resid_tops
from jaxinterp.memories.values import Moments, Standing, ValuesRead, gaussian, standing, value_tops
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.lens import unembedding
from jaxinterp.models.model import Model
from jaxinterp.models.rerun import after_ffn

RELATIVE = 0.1  # of the largest |activation| of a token and layer, where activations may be below 0
DOMINANT = 10  # memories of a token and layer whose parts of the logits vary most
CASES = ("residual", "ffn", "agreement", "composition")
AT_LEAST_0 = ("relu", "relu2", "topk")


def active_memories(config: ModelConfig, neurons_EF: Float[np.ndarray, "E F"]) -> Bool[np.ndarray, "E F"]:
    """Which neurons are active: above 0, where activations cannot be below; of other kinds, those whose activation,
    without its sign, is above `RELATIVE` of the layer's largest at that token.
    """
    if config.ffn in AT_LEAST_0 and config.ffn_units == 1:
        return neurons_EF > 0
    size_EF = np.abs(neurons_EF)
    return size_EF > RELATIVE * size_EF.max(1, keepdims=True)


def composition_of_layer(
    model: Model,
    lens: Lens,
    layer: int,
    value_FD: Float[np.ndarray, "F D"],
    read: ValuesRead,
    examples: Examples,
    moments: Moments,
    kind: str = "own",
    seed: int = 0,
) -> dict[str, Float[np.ndarray, " E"]]:
    """The figures of each example; NaN where it does not count.

    Args:
      model, lens, layer: whose memories, and how they are read.
      value_FD: the layer's value vectors, or a control's.
      read: what they say.
      examples: where.
      moments: of the model's vocabulary.
      kind: a name out of `jaxinterp.memories.values.VALUES`; controls also compare with another example's prediction
        (shuffled), or put normal vectors in the residual stream's place (random), where values do not matter.
      seed: of these.
    """
    neurons_EF, mid_ED = examples.mlp_post_LEF[layer], examples.resid_mid_LED[layer]
    rng, final_E = np.random.default_rng([seed, 4, layer]), examples.token_E
    active_EF = active_memories(model.config, neurons_EF)
    written_ED = neurons_EF @ value_FD
    if "b_out" in model.params["layers"]:
        written_ED = written_ED + np.asarray(model.params["layers"]["b_out"][layer])[None]
    after_ED = in_chunks(lambda mid, written: _after(model, mid, written, layer), mid_ED, written_ED)
    ffn_E = value_tops(model, lens, layer, written_ED)
    before_E, after_E = (resid_tops(model, lens, layer, x) for x in (mid_ED, after_ED))
    # A negative activation promotes most what its value says least.
    said_EF = np.where(neurons_EF > 0, np.asarray(read.top_N)[None], np.asarray(read.bottom_N)[None])
    figures = {"compositional": ~(active_EF & (said_EF == ffn_E[:, None])).any(1)}
    figures |= {f"case_{case}": which for case, which in zip(CASES, _cases(before_E, ffn_E, after_E), strict=True)}
    compared_E = rng.permutation(final_E) if kind == "shuffled" else final_E
    streams = {"before": before_E, "after": after_E}
    if kind == "random":
        streams = {name: resid_tops(model, lens, layer, gaussian(x, rng)) for name, x in _named(mid_ED, after_ED)}
    figures |= {f"{name}_is_final": tops_E == compared_E for name, tops_E in streams.items()}
    if kind == "own":
        figures["active"] = active_EF.mean(1)
    against, changed_E = standing(model, lens, layer, value_FD, moments), before_E != after_E
    for name, token_E in (("z_promoted", after_E), ("z_eliminated", before_E)):
        z_E = _dominant_z(model, against, neurons_EF, token_E)
        figures[name] = np.where(changed_E, z_E, np.nan)
    return {name: np.asarray(value_E, float) for name, value_E in figures.items()}


def _named(mid_ED: np.ndarray, after_ED: np.ndarray) -> tuple[tuple[str, np.ndarray], ...]:
    return ("before", mid_ED), ("after", after_ED)


def _cases(before_E: np.ndarray, ffn_E: np.ndarray, after_E: np.ndarray) -> tuple[np.ndarray, ...]:
    """Where the prediction after the FFN comes from, in the order of `CASES`; exactly one is true."""
    of_resid, of_ffn = after_E == before_E, after_E == ffn_E
    return of_resid & ~of_ffn, of_ffn & ~of_resid, of_resid & of_ffn, ~of_resid & ~of_ffn


def _dominant_z(
    model: Model, against: Standing, neurons_EF: np.ndarray, token_E: np.ndarray
) -> Float[np.ndarray, " E"]:
    """A token's logit in what a memory adds, in standard deviations over the vocabulary from the mean; a mean over the
    `DOMINANT` memories of an example.
    """
    n = min(DOMINANT, neurons_EF.shape[1])
    size_EF = np.abs(neurons_EF) * against.deviation_F[None]
    neuron_EN = np.argpartition(-size_EF, n - 1, axis=1)[:, :n]
    token_ED = np.asarray(unembedding(model, jnp.asarray(token_E)))
    logit_EN = np.einsum("end,ed->en", against.aimed_FD[neuron_EN], token_ED)
    z_EN = (logit_EN - against.mean_F[neuron_EN]) / against.deviation_F[neuron_EN]
    return (np.sign(np.take_along_axis(neurons_EF, neuron_EN, 1)) * z_EN).mean(1)


@jax.jit
def _after(model: Model, mid_ED: Array, written_ED: Array, layer: Array) -> Float[Array, "E D"]:
    layer_E = jnp.full(mid_ED.shape[0], layer)
    return after_ffn(model.config, model.params["layers"], layer_E, mid_ED, written_ED)
