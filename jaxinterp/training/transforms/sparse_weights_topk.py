"""Few connections: after every step all but the largest weights are 0."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.base.errors import UserError
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.parameters import FFN_MATRICES, Parameter, attention, ffn
from jaxinterp.training.registry import number_of, transform

NAME = "sparse_weights_topk"
LEAST = 4  # weights that a neuron keeps in each of its matrices, or all it has if they are fewer
ANNEALED = 0.5  # of the run's steps, over which the density falls from 1


class Steps(NamedTuple):
    """Where the annealing is."""

    count: Int[Array, ""]  # steps done


@transform(NAME)
def sparse_weights_topk(
    inner: optax.GradientTransformation, text: str, model: ModelConfig, steps: int
) -> optax.GradientTransformation:
    """Sets all but the n largest |w| of each matrix of each layer to exactly 0 after a step (Gao et al. 2025).

    n = size − round((size − n_end) · min(t / (steps / 2), 1)) after step t = 1 … steps, with
    n_end = max(round(density · size), 4 F) for the FFN's matrices, and without the 4 F for attention's. The 4 largest
    weights of each neuron, in each of w_in, w_gate and w_out, are among the n. Of equal weights the first are kept.

    The optimiser's means are kept whole and gradients reach weights of 0, so that a weight comes back as soon as a step
    makes it one of the largest. Embeddings, norms, biases, routers and what is inside of neurons of several units stay
    as they are: the paper's density is that of all parameters, and it keeps 4 weights of attention's channels, too. A
    weight of 0 that is among the n and that a step does not move stays 0. In a run that is prolonged the density is
    that of a run of so many steps.

    Args:
      inner: the optimiser.
      text: the density at the end, in (0, 1].
      model: whose parameters are trained.
      steps: of the whole run.
    Raises:
      UserError: if the density is out of range.
    """
    density = number_of(NAME, text)
    if not 0 < density <= 1:
        raise UserError(f"optimiser.transforms.{NAME} is the share of weights left: above 0 and at most 1, got {text}")
    matrices = {name: of for name, of in attention(model).items() if name.startswith("w_")}
    matrices |= {name: of for name, of in ffn(model).items() if name in FFN_MATRICES}

    def cut(of: Parameter, update: Array, param: Array, share: Array) -> Array:
        size_LN = jnp.abs(param + update).reshape(param.shape[0], -1)
        size, least = size_LN.shape[1], 0
        if "mlp" in of.axes:
            axis = of.axes.index("mlp")
            n_neurons = of.shape[axis]
            of_neuron = min(LEAST, size // n_neurons)
            by_neuron = jnp.moveaxis(size_LN.reshape(param.shape), 1 + axis, 1)
            own = largest(by_neuron.reshape(-1, size // n_neurons), of_neuron).reshape(by_neuron.shape)
            size_LN = jnp.where(jnp.moveaxis(own, 1, 1 + axis).reshape(size_LN.shape), jnp.inf, size_LN)
            least = of_neuron * n_neurons
        n_end = max(round(density * size), least)
        n = size - jnp.round((size - n_end) * share).astype(jnp.int32)
        # param + (−param) is 0 whatever the rounding.
        return jnp.where(largest(size_LN, n).reshape(param.shape), update, -param)

    def after(updates: dict, state: Steps, params: dict) -> tuple[dict, Steps]:
        done = state.count + 1
        share = jnp.minimum(done.astype(jnp.float32) / (ANNEALED * steps), 1)
        layers = dict(updates["layers"])
        for name, of in matrices.items():
            layers[name] = cut(of, layers[name], params["layers"][name], share)
        return {**updates, "layers": layers}, Steps(done)

    cutting = optax.GradientTransformation(lambda params: Steps(jnp.zeros((), jnp.int32)), after)
    return optax.chain(inner, cutting)


def largest(size_XN: Float[Array, "X N"], n: int | Int[Array, ""]) -> Bool[Array, "X N"]:
    """Marks the n largest of each row, no more and no fewer; of equal ones the first.

    The n-th largest is found bit by bit, and so is the place up to which equals count. That takes a pass for each bit,
    and counts are all that devices which share a row have to tell one another; a sort would gather the row.

    Args:
      size_XN: at least 0.
      n: 1 … N.
    """
    kind = jnp.dtype(f"uint{8 * size_XN.dtype.itemsize}")
    # Floats of one sign are in the order of their bits.
    bits_XN = jax.lax.bitcast_convert_type(size_XN, kind)
    count = lambda marked_XN: marked_XN.sum(-1, dtype=jnp.int32)  # noqa: E731
    nth_X = _highest(lambda at_X: count(bits_XN >= at_X[:, None]) >= n, bits_XN[:, 0], 8 * kind.itemsize - 1)
    above_XN, equal_XN = bits_XN > nth_X[:, None], bits_XN == nth_X[:, None]
    place_1N = jnp.arange(size_XN.shape[1], dtype=kind)[None]
    left_X = n - count(above_XN)
    n_bits = size_XN.shape[1].bit_length()
    end_X = _highest(lambda at_X: count(equal_XN & (place_1N < at_X[:, None])) <= left_X, nth_X, n_bits)
    return above_XN | (equal_XN & (place_1N < end_X[:, None]))


def _highest(holds: Callable[[Array], Array], like_X: Array, n_bits: int) -> Array:
    """The highest whole numbers of so many bits for which a condition holds that holds for all lower ones."""

    def decide(i: Array, found_X: Array) -> Array:
        more_X = found_X | (jnp.ones((), like_X.dtype) << (n_bits - 1 - i).astype(like_X.dtype))
        return jnp.where(holds(more_X), more_X, found_X)

    return jax.lax.fori_loop(0, n_bits, decide, jnp.zeros_like(like_X))
