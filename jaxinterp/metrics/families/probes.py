"""Sparse probes: can a relation be read off a few neurons as well as off all (Gurnee et al. 2023)?"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.metrics.batching import Batch
from jaxinterp.metrics.columns import MeasuredSet, set_group
from jaxinterp.metrics.crossing import smallest_number
from jaxinterp.metrics.families.recovery import halves
from jaxinterp.metrics.registry import Mean, Values, derived, metric

SIZES = (1, 2, 5, 10, 20)  # neurons of a probe
NEARLY = 0.99  # of the accuracy of a probe of all neurons
# Accuracy where a relation has neurons of its own, and where it is spread over many.
_LIKE = dict(zip((*SIZES, "all"), ((0.95, x) for x in (0.4, 0.42, 0.45, 0.5, 0.55, 0.6)), strict=True))


@set_group(
    "probes",
    gives={f"probe_{size}": like for size, like in _LIKE.items()},
    cost="passes",
    package=("sklearn", "probes"),
)
def _probes(found: MeasuredSet) -> dict[str, Float[np.ndarray, " N"]]:
    """1 where probes trained on the other half of the facts name the query's relation; NaN with one relation."""
    examples = found.examples
    activation_NU = np.zeros((len(examples), examples.n_neurons), np.float32)

    def step(batch: Batch, taken: np.ndarray) -> Mapping[str, Array]:
        readout = examples.readout(batch)
        first = np.flatnonzero(np.asarray(batch.answers.first_R) > 0)
        of_rows = np.asarray(jnp.asarray(readout.neurons_LRF, jnp.float32)).transpose(1, 0, 2)[first]
        activation_NU[taken] = of_rows.reshape(len(taken), -1)
        return {}

    found.each_batch(step)
    return probed(activation_NU, examples.relation_N, halves(examples.fact_N))


def probed(
    activation_NU: Float[np.ndarray, "N U"], concept_N: Int[np.ndarray, " N"], half_N: Int[np.ndarray, " N"]
) -> dict[str, Float[np.ndarray, " N"]]:
    """Whether probes name each answer's concept, by the number of neurons that they see.

    One logistic regression a concept, against all others, concepts weighing the same, on the neurons whose means differ
    most in standard deviations; the concept with the highest log odds is named. Trained on one half, asked on the
    other.
    """
    from sklearn.linear_model import LogisticRegression

    names = (*(f"probe_{size}" for size in SIZES), "probe_all")
    columns = {name: np.full(len(concept_N), np.nan) for name in names}
    for half in (0, 1):
        taught, asked = half_N == half, half_N != half
        concepts = np.unique(concept_N[taught])
        if len(concepts) < 2 or not asked.any():
            continue
        mean, sd = activation_NU[taught].mean(0), activation_NU[taught].std(0)
        x = (activation_NU - mean) / np.maximum(sd, 1e-6 * max(float(np.abs(activation_NU).max()), 1e-30))
        for name, size in zip(names, (*SIZES, x.shape[1]), strict=True):
            odds = []
            for concept in concepts:
                inside = concept_N[taught] == concept
                difference = x[taught][inside].mean(0) - x[taught][~inside].mean(0)
                chosen = np.argsort(-np.abs(difference), kind="stable")[:size]
                probe = LogisticRegression(class_weight="balanced", max_iter=1000)
                # Now and then OpenBLAS flags products of finite numbers as invalid; what is not finite is seen below.
                with np.errstate(invalid="ignore"):
                    probe.fit(x[taught][:, chosen], inside)
                    odds.append(probe.decision_function(x[asked][:, chosen]))
            right = concepts[np.argmax(odds, axis=0)] == concept_N[asked]
            columns[name][asked] = np.where(np.isfinite(odds).all(0), right, np.nan)
    return columns


def _register(name: str, words: str) -> None:
    @metric(
        name,
        needs=(name,),
        title=f"Probe of {words}",
        words={"words": words},
        unit="%",
        range=(0.0, 1.0),
        better="neither" if name == "probe_all" else "higher",
        masks="none",
        differentiable=False,
        source="Gurnee et al. 2023",
    )
    def _accuracy(mean: Mean) -> Values:
        """Share of the answers whose relation is named by a logistic regression on the activations of {words}, trained
        on other facts.
        """
        return mean(name)


for _size in SIZES:
    _register(f"probe_{_size}", f"{_size} neuron{'s' if _size > 1 else ''}")
_register("probe_all", "all neurons")


@derived(
    "probe_neurons",
    of=(*(f"probe_{size}" for size in SIZES), "probe_all"),
    title="Neurons of a probe as good as all",
    unit="neurons",
    range=(1.0, float(SIZES[-1])),
    better="lower",
    masks="none",
    differentiable=False,
    source="after Gurnee et al. 2023",
)
def probe_neurons(values: Mapping[str, Values]) -> Values:
    """Smallest number of neurons with which a logistic regression names the relations of answers 99 % as often as with
    all neurons; between 1, 2, 5, 10 and 20 neurons, by the logarithm. 20 also stands for more than 20.
    """
    accuracy, enough = (np.stack([np.ravel(values[f"probe_{size}"]) for size in sizes]) for sizes in (SIZES, ("all",)))
    numbers = np.broadcast_to(np.array(SIZES, float)[:, None], accuracy.shape)
    found = smallest_number(*map(jnp.asarray, (numbers, accuracy, NEARLY * enough[0])))
    return np.asarray(found, float).reshape(np.shape(values["probe_all"]))
