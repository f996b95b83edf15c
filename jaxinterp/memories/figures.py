"""The numbers of Geva et al. 2021 and 2022 on a model, by every lens, with two controls each."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from jaxinterp.base.errors import UserError
from jaxinterp.base.progress import progress
from jaxinterp.memories.agreement import NextTokens, agreement_of_layer, by_confidence, next_tokens
from jaxinterp.memories.composition import composition_of_layer
from jaxinterp.memories.config import FiguresConfig
from jaxinterp.memories.corpus import Corpus
from jaxinterp.memories.cuts import coefficient_drops, effects_of_neurons
from jaxinterp.memories.examples import Examples, drawn_examples
from jaxinterp.memories.figure_table import FigureTable, Row, Sample, rows_of
from jaxinterp.memories.lens import LENSES, Lens
from jaxinterp.memories.triggers import Triggers
from jaxinterp.memories.values import VALUES, Moments, ValuesRead, layer_values, read_values, vocabulary_moments
from jaxinterp.models.model import Model


def memory_figures(
    model: Model,
    corpus: Corpus,
    triggers: Triggers,
    lenses: Sequence[Lens],
    config: FiguresConfig,
) -> FigureTable:
    """Agreement, composition, refinement and promotion; `jaxinterp.memories.figure_table.FIGURES` says what each is.

    Each figure in which values enter is there by every lens, of the model's own values, of the layer's values shuffled
    among its keys, and of normal vectors with the layer's mean and covariance in their place. What the whole FFN writes
    is put together again from the values that are looked at.

    Args:
      model: the model.
      corpus: texts, for examples and next tokens.
      triggers: of all neurons of the model, in that corpus.
      lenses: made by `jaxinterp.memories.lens.LENSES`, best on other texts.
      config: what is looked at.
    Raises:
      UserError: if a layer does not exist, or the corpus has no usable place.
    """
    for layer in config.layers:
        if not 0 <= layer < model.config.n_layers:
            raise UserError(f"figures.layers must lie in 0 … {model.config.n_layers - 1}, got {layer}")
    layers = config.layers or tuple(range(model.config.n_layers))
    following = next_tokens(corpus, triggers)
    moments = vocabulary_moments(model)
    examples = drawn_examples(model, corpus, config.examples, skip=config.n_prefix, seed=config.seed)
    switched_N2 = _drawn(following, layers, config.switched, config.seed)
    rows: list[Row] = []
    sides: dict[tuple[str, str], Int[np.ndarray, "N E"]] = {}
    cases = list(itertools.product(lenses, VALUES))
    with progress("memories by lens, values and layer", len(cases) * len(layers)) as report:
        for number, (lens, kind) in enumerate(cases):
            reads, samples = {}, []
            for place, layer in enumerate(layers):
                reads[layer], found = _layer(model, lens, kind, layer, following, examples, moments, config.seed)
                samples.append(found)
                report(number * len(layers) + place + 1, f"{lens.name}, {kind}, layer {layer}")
            about = {"lens": lens.name, "values": kind, "level": config.level}
            for name in samples[0]:
                # Which memories are active is a matter of keys alone.
                named = {**about, "lens": ""} if name == "active" else about
                if name != "active" or not any(row.figure == "active" for row in rows):
                    rows += rows_of(name, _joined([sample[name] for sample in samples]), **named)
            rows += _confidence_rows(
                following, reads, _joined([sample["agreement"] for sample in samples]), config, about
            )
            sides[lens.name, kind] = _sides(reads, switched_N2)
    rows += _effect_rows(model, corpus, triggers, switched_N2, sides, config)
    rows += _cut_rows(model, corpus, triggers, _drawn(following, layers, config.cut_neurons, config.seed + 1), config)
    definitions = {lens.name: LENSES[lens.name].definition for lens in lenses if lens.name in LENSES.names()}
    return FigureTable(rows, definitions, dataclasses.asdict(config))


def _layer(
    model: Model,
    lens: Lens,
    kind: str,
    layer: int,
    following: NextTokens,
    examples: Examples,
    moments: Moments,
    seed: int,
) -> tuple[ValuesRead, dict[str, Sample]]:
    """What a layer's values say, and the samples of its figures."""
    value_FD = layer_values(model, layer, kind, seed)
    read = read_values(model, lens, layer, value_FD, following.token_LFK[layer, :, :1].clip(0))
    of_neurons = agreement_of_layer(layer, following, read)
    of_examples = composition_of_layer(model, lens, layer, value_FD, read, examples, moments, kind, seed)
    unit_F = layer * len(value_FD) + np.arange(len(value_FD))
    samples = {name: _sample(value_F, layer, unit_F) for name, value_F in of_neurons.items()}
    return read, samples | {name: _sample(x, layer, examples.text_E) for name, x in of_examples.items()}


def _sample(value_N: np.ndarray, layer: int, unit_N: np.ndarray) -> Sample:
    return Sample(value_N, np.full(len(value_N), layer), np.asarray(unit_N))


def _joined(samples: Sequence[Sample]) -> Sample:
    return Sample(*map(np.concatenate, zip(*samples, strict=True)))


def _confidence_rows(
    following: NextTokens, reads: dict[int, ValuesRead], agreement: Sample, config: FiguresConfig, about: dict
) -> list[Row]:
    """Agreement in bins of live neurons, by how sure their value is."""
    confidence_N = np.concatenate([np.asarray(read.confidence_N) for read in reads.values()])
    live_N = np.concatenate([following.live_LF[layer] for layer in reads])
    bin_N = by_confidence(confidence_N[live_N], config.bins)
    binned = Sample(agreement.value_N[live_N], bin_N, agreement.unit_N[live_N])
    return rows_of("agreement", binned, **about, by="confidence")


def _drawn(following: NextTokens, layers: Sequence[int], n: int, seed: int) -> Int[np.ndarray, "N 2"]:
    """Layers and numbers of at most n live neurons of each layer."""
    rng = np.random.default_rng([seed, 6])
    found = [(layer, f) for layer in layers for f in rng.permutation(np.flatnonzero(following.live_LF[layer]))[:n]]
    return np.array(found, int).reshape(-1, 2)


def _sides(reads: dict[int, ValuesRead], neuron_N2: Int[np.ndarray, "N 2"]) -> Int[np.ndarray, "N E"]:
    """The highest and then the lowest tokens of neurons."""
    both = {layer: np.concatenate([read.highest_NE, read.lowest_NE], 1) for layer, read in reads.items()}
    return np.stack([both[layer][neuron] for layer, neuron in neuron_N2.tolist()])


def _effect_rows(
    model: Model, corpus: Corpus, triggers: Triggers, neuron_N2: np.ndarray, sides: dict, config: FiguresConfig
) -> Iterator[Row]:
    """The figures of switching neurons off: once for all lenses and values, which only choose tokens."""
    layer_N, place_N2 = neuron_N2[:, 0], _places(triggers, neuron_N2, 0)
    effect_NE = effects_of_neurons(model, corpus, neuron_N2, place_N2, np.concatenate(list(sides.values()), 1))
    of_each = np.split(effect_NE, len(sides), axis=1)
    unit_N = layer_N * model.config.d_mlp + neuron_N2[:, 1]
    for (lens, kind), both_NE in zip(sides, of_each, strict=True):
        highest_N, lowest_N = (side.mean(1) for side in np.split(both_NE, 2, axis=1))
        figures = {"raises_highest": (highest_N > lowest_N).astype(float)}
        figures |= {"effect_highest": highest_N, "effect_lowest": lowest_N}
        for name, value_N in figures.items():
            about = {"lens": lens, "values": kind, "level": config.level}
            yield from rows_of(name, Sample(value_N, layer_N, unit_N), **about)


def _cut_rows(
    model: Model, corpus: Corpus, triggers: Triggers, neuron_N2: np.ndarray, config: FiguresConfig
) -> Iterator[Row]:
    """The figures of cutting tokens out of triggers."""
    n = min(config.cut_triggers, triggers.activation_LFK.shape[2])
    places = [_places(triggers, neuron_N2, rank) for rank in range(n)]
    there = [place_N2[:, 1] >= 0 for place_N2 in places]
    neurons = np.concatenate([neuron_N2[of] for of in there])
    place_N2 = np.concatenate([place_N2[of] for place_N2, of in zip(places, there, strict=True)])
    drops = coefficient_drops(model, corpus, neurons, place_N2, n_prefix=config.n_prefix, seed=config.seed)
    unit_N = neurons[:, 0] * model.config.d_mlp + neurons[:, 1]
    for name, drop_N in drops.items():
        yield from rows_of(f"cut_{name}", Sample(drop_N, neurons[:, 0], unit_N), level=config.level)


def _places(triggers: Triggers, neuron_N2: Int[np.ndarray, "N 2"], rank: int) -> Int[np.ndarray, "N 2"]:
    """Window and position of one trigger of each neuron."""
    layer_N, number_N = neuron_N2.T
    arrays = (triggers.window_LFK, triggers.position_LFK)
    return np.stack([np.asarray(array)[layer_N, number_N, rank] for array in arrays], 1)
