"""A small CNN on scikit-learn's digits, measured and trained for suppressability by the tools made for language models.

An answer is the digit that an image shows, the subject is the image, and all images share one relation: which digit is
this? The neurons are the units of two hidden layers. `python examples/vision_readout.py` trains a plain and a
suppressable network for each of five seeds and compares them on images that neither has seen.
"""

import argparse

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
from sklearn.datasets import load_digits

from jaxinterp.attribution.readout import FunctionReadout
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.examples import ReadoutExamples
from jaxinterp.metrics.measure import measure_examples
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.readout_step import objective_step
from jaxinterp.training.state import first_state

LAYERS, UNITS = 2, 64
K = 4  # units that are switched off, of 128
SHOWN = ("suppressability", "control_drop_relation", "control_drop_answer", "random_drop", "overlap_within")


class Network(nn.Module):
    """Convolution, pooling, and two hidden layers whose units gates multiply."""

    @nn.compact
    def __call__(self, images_RHW, gates_LRF=None):
        x = nn.relu(nn.Conv(16, (3, 3))(images_RHW[..., None]))
        x = nn.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        units = []
        for layer in range(LAYERS):
            units.append(nn.relu(nn.Dense(UNITS)(x)))
            x = units[-1] if gates_LRF is None else gates_LRF[layer] * units[-1]
        return nn.Dense(10)(x), jnp.stack(units)


def probability(gates_LRF, params, images_RHW, digit_R):
    """P(the digit that the image shows) of each image, with its own gates."""
    logits_RC, _ = Network().apply(params, images_RHW, gates_LRF)
    return jnp.take_along_axis(jax.nn.softmax(logits_RC), digit_R[:, None], axis=1)[:, 0]


def read(params, batch):
    """The cross-entropy of a batch, its readout, and its answers."""
    images_RHW, digit_R, answers = batch
    logits_RC, units_LRF = Network().apply(params, images_RHW)
    readout = FunctionReadout(probability, units_LRF.shape, units_LRF, (params, images_RHW, digit_R))
    return optax.softmax_cross_entropy_with_integer_labels(logits_RC, digit_R).mean(), readout, answers


def digits(seed):
    """Images in [0, 1] and digits, a third of them held out."""
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    images, digit = (data.images[order] / 16).astype(np.float32), data.target[order].astype(np.int32)
    n = len(images) // 3
    return (images[n:], digit[n:]), (images[:n], digit[:n])


def trained(images, digit, seed, steps, weights):
    """The parameters after some steps of Adam on batches of 128 images."""
    objective = ObjectiveConfig(weights=weights, k=K, control_k=2 * K, control_kinds=("relation",))
    transform = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    step = objective_step(read, objective, transform)
    state = first_state(Network().init(jax.random.key(seed), images[:1]), transform, jax.random.key(seed))
    rng = np.random.default_rng(seed)
    for number in range(steps):
        chosen = rng.choice(len(images), 128, replace=False)
        answers = ReadoutExamples(None, (LAYERS, UNITS), digit[chosen]).answers(rng)
        state, _ = step(state, (images[chosen], digit[chosen], answers), number)
    return state.params


def measured(params, images, digit):
    """S, control drops, P and accuracy on images, as numbers."""
    right = np.asarray(Network().apply(params, images)[0].argmax(-1) == digit)
    readout = lambda index: read(params, (images[index], digit[index], None))[1]  # noqa: E731
    examples = ReadoutExamples(readout, (LAYERS, UNITS), digit, correct_N=right.astype(float))
    config = MeasureConfig(k=K, metrics=(*SHOWN, "probability"))
    estimates = measure_examples({"held out": examples}, ["which digit"], config).sets["held out"]
    return {name: of.overall.value for name, of in estimates.items()} | {"accuracy": right.mean()}


def main():
    """Trains, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true", help="one seed and few steps, to see that it runs")
    fast = parser.parse_args().fast
    seeds, steps = (1, 60) if fast else (5, 1500)
    begin = f"0@{steps // 3}"
    arms = {
        "plain": {},
        "suppressable": {"suppression": f"{begin},1@{steps // 2}", "control": f"{begin},2@{steps // 2}"},
    }
    found = {arm: [] for arm in arms}
    for seed in range(seeds):
        train, held_out = digits(seed)
        for arm, weights in arms.items():
            found[arm].append(measured(trained(*train, seed, steps, weights), *held_out))
            print(
                f"seed {seed}, {arm}: " + ", ".join(f"{n} {100 * v:.1f}" for n, v in found[arm][-1].items()), flush=True
            )
    print(f"\nmeans over {seeds} seeds in percent, with 95 % intervals")
    for name in found["plain"][0]:
        print(f"{name:24}" + "   ".join(f"{arm} {interval([m[name] for m in of])}" for arm, of in found.items()))


def interval(values):
    """The mean with Student's interval over seeds."""
    mean, n = 100 * np.mean(values), len(values)
    if n == 1:
        return f"{mean:5.1f}"
    half = 100 * np.std(values, ddof=1) / n**0.5 * scipy.stats.t.ppf(0.975, n - 1)
    return f"{mean:5.1f} [{mean - half:.1f}, {mean + half:.1f}]"


if __name__ == "__main__":
    main()
