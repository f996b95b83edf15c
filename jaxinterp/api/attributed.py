"""One prompt under the microscope: which neurons carry its answer, and what switching or doubling them does."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from rich.table import Table

from jaxinterp.attribution.edits import NeuronEdit, active_neurons, amplify, random_mask, suppress
from jaxinterp.attribution.readout import Readout
from jaxinterp.attribution.selection import check_k
from jaxinterp.base.errors import UserError
from jaxinterp.metrics.results import promoted_tokens
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.readout import LanguageModelReadout
from jaxinterp.report.shown import Part, Shown, probability_shown, visible

if TYPE_CHECKING:
    from jaxinterp.report.charts import Chart


SAID = 5  # tokens that a model says, as they are shown


class Neuron(NamedTuple):
    """A neuron that carries an answer."""

    layer: int
    neuron: int
    score: float  # in units of probability
    share: float | None  # of all positive scores; None for a score that is not positive
    activation: float
    alone: float  # probability when it alone is switched off
    promotes: list[str]  # the tokens that its value vector promotes most


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Attributed(Shown):
    """An answer's probability, attributed to neurons. Printed, or as the value of a notebook's cell, it is a table.

    L layers, R tokens of the answer, F neurons of a layer. An answer of several tokens is read token by token, each at
    its own query position; its probability is the product. Its knowledge neurons are the k of the highest scores summed
    over its tokens, and an edit of them acts at every one of these positions.
    """

    prompt: str
    answer: str
    tokens: tuple[str, ...]  # all that were read, in order
    answer_place: tuple[int, int]  # the first of them that is the answer's, and the one after its last
    notes: tuple[str, ...]  # what may surprise in that, a sentence each
    probability: float  # of the answer, untouched
    probability_R: Float[Array, " R"]  # of each of its tokens
    predicted: tuple[str, ...]  # the most probable token in place of each
    scores_LRF: Float[Array, "L R F"]  # in units of probability
    activations_LRF: Float[Array, "L R F"]
    # Completeness residuals: P rows, one for each layer on the per_layer path and one on the joint path
    residual_PR: Float[Array, "P R"]
    k: int  # knowledge neurons where a method is not told otherwise, out of all layers
    seed: int  # of random neurons
    readout: LanguageModelReadout
    model: LanguageModel

    def mask(self, k: int | None = None) -> Float[Array, "L R F"]:
        """1 for the k knowledge neurons of the answer, the same at each of its tokens, and 0 elsewhere.

        Raises:
          UserError: if k is not in [1, L·F).
        """
        n_layers, n_rows, n_neurons = self.scores_LRF.shape
        mask_LF = np.zeros((n_layers, n_neurons), self.scores_LRF.dtype)
        mask_LF.ravel()[_best(self._scores(None), self._k(k))] = 1
        return jnp.asarray(np.repeat(mask_LF[:, None], n_rows, axis=1))

    def suppressed(self, k: int | None = None) -> float:
        """The probability of the answer with its k knowledge neurons switched off."""
        return self._edited(k)["suppressed"]

    def amplified(self, k: int | None = None) -> float:
        """The probability of the answer with the activations of its k knowledge neurons doubled."""
        return self._edited(k)["amplified"]

    def random(self, k: int | None = None) -> float:
        """The probability of the answer with random neurons switched off instead.

        They are as many in each layer as the k knowledge neurons, out of those active at the first token's query.
        """
        return self._edited(k)["random"]

    def neurons(self, k: int | None = None, token: int | None = None) -> list[Neuron]:
        """The k neurons with the highest scores.

        Args:
          k: how many; None is the value's own k.
          token: number of a token of the answer, whose own scores and activations count. None is the whole answer:
            scores are summed over its tokens, activations are those at the first one's query, and `alone` is of the
            whole answer, whose tokens' queries all lose the neuron.
        Raises:
          UserError: if k is not in [1, L·F).
        """
        self._check_token(token)
        scores, activations = self._scores(token), np.asarray(self.activations_LRF)[:, token or 0]
        # Of a signed sum there is no share: scores that cancel make it any number.
        positive = scores.sum(where=scores > 0)

        places = np.unravel_index(_best(scores, self._k(k)), scores.shape)
        alone_KR = np.asarray(_alone(self.readout, *map(jnp.asarray, places)))
        alone_K = alone_KR.prod(1) if token is None else alone_KR[:, token]

        def neuron(layer: int, number: int, alone: float) -> Neuron:
            score, activation = float(scores[layer, number]), float(activations[layer, number])
            share = float(scores[layer, number] / positive) if score > 0 else None
            promotes = promoted_tokens(self.model, layer, number, activation=activation)
            return Neuron(layer, number, score, share, activation, alone, promotes)

        return [neuron(int(layer), int(number), float(p)) for layer, number, p in zip(*places, alone_K, strict=True)]

    def top_tokens(self, n: int = 5, edit: NeuronEdit | None = None, token: int = 0) -> list[tuple[str, float]]:
        """The n most probable tokens where a token of the answer stands, with their probabilities.

        Args:
          n: how many.
          edit: of neurons at the query positions, such as `suppress(attributed.mask(8))`; None is the untouched model.
          token: number of the answer's token; those before it are given.
        """
        if edit is not None and not isinstance(edit, NeuronEdit):
            raise UserError("edit must be an edit of neurons, such as ji.suppress(mask) or ji.amplify(mask)")
        self._check_token(token)
        for array in () if edit is None else (part for part in edit if part is not None):
            if np.shape(array) != self.readout.shape:
                raise UserError(f"the edit's arrays must have the shape {self.readout.shape}, got {np.shape(array)}")
        gates, shift = edit if edit is not None else NeuronEdit(jnp.ones_like(self.readout.neurons_LRF))
        probability_V = np.asarray(_probabilities(self.readout, gates, shift)[token])
        best = np.argsort(-probability_V, kind="stable")[:n]
        return [(self.model.tokenizer.token(int(id)), float(probability_V[id])) for id in best]

    def chart(self, k: int | None = None) -> "Chart":
        """Bars of the k highest scores, and of the answer's probability with these neurons off and doubled."""
        from jaxinterp.report.neuron_bars import neuron_bars  # altair takes a while to import

        probabilities = {"untouched": self.probability, **self._edited(k)}
        neurons = [neuron._asdict() for neuron in self.neurons(k)]
        return neuron_bars(neurons, probabilities, f"{self.prompt!r} → {self.answer!r}")

    def to_json(self) -> dict:
        """The value as plain numbers and texts, as `jaxinterp attribute --json` prints it."""
        return {
            "prompt": self.prompt,
            "answer": self.answer,
            "read": {"tokens": list(self.tokens), "answer": list(self.answer_place)},
            "notes": list(self.notes),
            "probability": self.probability,
            **self._edited(None),
            "tokens": [
                {
                    "token": token,
                    "probability": float(self.probability_R[row]),
                    "predicted": self.predicted[row],
                    "completeness_residual": self._residual(row),
                    "says": {
                        # A list, for tokens of different numbers may read alike.
                        name: [{"token": text, "probability": p} for text, p in tokens]
                        for name, tokens in self._says(row).items()
                    },
                    "neurons": [neuron._asdict() for neuron in self.neurons(token=row)],
                }
                for row, token in enumerate(self._answer_tokens)
            ],
        }

    def __repr__(self) -> str:
        n_layers, n_rows, n_neurons = self.scores_LRF.shape
        return (
            f"Attributed({self.prompt!r} → {self.answer!r}, P = {probability_shown(self.probability)}, {n_rows} token"
            f"{'s' * (n_rows > 1)}, {n_layers} layers of {n_neurons} neurons)"
        )

    def parts(self) -> Sequence[Part]:
        first, end = self.answer_place
        stretches = (self.tokens[part] for part in (slice(first), slice(first, end), slice(end, None)))
        edited = self._edited(None)
        rows: list[list[Part]] = [[*self._said(row), self._table(row)] for row in range(end - first)]
        return [
            f"{self.prompt!r} → {self.answer!r}",
            f"read as {' | '.join(' '.join(map(repr, stretch)) for stretch in stretches if stretch)}",
            *(f"note: {note}" for note in self.notes),
            f"P = {probability_shown(self.probability)}; own neurons off {probability_shown(edited['suppressed'])}, "
            f"doubled {probability_shown(edited['amplified'])}; as many random neurons off "
            f"{probability_shown(edited['random'])}",
            *itertools.chain(*rows),
        ]

    def _says(self, row: int) -> dict[str, list[tuple[str, float]]]:
        """The most probable tokens in place of one of the answer's, before and after."""
        return {
            "untouched": self.top_tokens(SAID, token=row),
            "suppressed": self.top_tokens(SAID, suppress(self.mask()), token=row),
        }

    def _said(self, row: int) -> list[str]:
        words = {"untouched": "the model says", "suppressed": "own neurons off, it says"}
        return [
            f"{words[name]} {', '.join(f'{visible(token)} {p:.1%}' for token, p in tokens)}"
            for name, tokens in self._says(row).items()
        ]

    def _table(self, row: int) -> Table:
        token = repr(self._answer_tokens[row])
        title = (
            f"{token}: P = {probability_shown(float(self.probability_R[row]))}, "
            f"completeness residual {self._residual(row):.1e}"
        )
        columns = ("layer", "neuron", "score", "share", "activation", "P without it", "promotes")
        table = Table(*columns, title=title, title_justify="left")
        for neuron in self.neurons(token=row):
            table.add_row(
                str(neuron.layer),
                str(neuron.neuron),
                f"{neuron.score:.4f}" if abs(neuron.score) >= 1e-3 else f"{neuron.score:.2e}",
                "-" if neuron.share is None else f"{neuron.share:.1%}",
                f"{neuron.activation:.3f}",
                probability_shown(neuron.alone),
                ", ".join(map(visible, neuron.promotes)),
            )
        return table

    @property
    def _answer_tokens(self) -> tuple[str, ...]:
        return self.tokens[slice(*self.answer_place)]

    def _scores(self, token: int | None) -> Float[np.ndarray, "L F"]:
        """A token's scores, or the sums over the tokens."""
        scores_LRF = np.asarray(self.scores_LRF)
        return scores_LRF.sum(1) if token is None else scores_LRF[:, token]

    def _residual(self, row: int) -> float:
        """A token's largest completeness residual, in absolute value."""
        return float(max(np.asarray(self.residual_PR)[:, row], key=abs))

    def _edited(self, k: int | None) -> dict[str, float]:
        """P of the answer under each edit of k neurons."""
        edited = jax.device_get(_edited(self.readout, self.mask(k), jax.random.key(self.seed)))
        return {name: float(edited[name]) for name in ("suppressed", "amplified", "random")}

    def _check_token(self, token: int | None) -> None:
        n_tokens = self.scores_LRF.shape[1]
        if token is not None and not 0 <= token < n_tokens:
            raise UserError(f"token {token} is out of range: the answer has {n_tokens}")

    def _k(self, k: int | None) -> int:
        k = self.k if k is None else k
        check_k(k, self.model.config.n_neurons)
        return k


@jax.jit
def _edited(readout: Readout, mask: Float[Array, "L R F"], key: PRNGKeyArray) -> dict[str, Array]:
    """P of the whole answer under each edit; every row is one of its tokens."""
    active = active_neurons(readout.neurons_LRF)
    at_random = jnp.broadcast_to(random_mask(key, mask[:, :1], active[:, :1]), mask.shape)
    edits = {"suppressed": suppress(mask), "amplified": amplify(mask), "random": suppress(at_random)}
    return {name: readout(*edit).prod() for name, edit in edits.items()}


@jax.jit
def _alone(readout: Readout, layer_K: Array, neuron_K: Array) -> Float[Array, "K R"]:
    """P of every row with one neuron off at a time, at all rows."""

    def without(place: tuple[Array, Array]) -> Array:
        layer, neuron = place
        return readout(jnp.ones(readout.shape, readout.untouched().dtype).at[layer, :, neuron].set(0))

    return jax.lax.map(without, (layer_K, neuron_K))


@jax.jit
def _probabilities(readout: LanguageModelReadout, gates_LRF: Array, shift_LRF: Array | None) -> Float[Array, "R V"]:
    return jax.nn.softmax(readout.logits(gates_LRF, shift_LRF))


def _best(scores_LF: Float[np.ndarray, "L F"], k: int) -> np.ndarray:
    """Numbers layer · F + neuron of the k highest scores; equal ones in that order."""
    return np.argsort(-scores_LF, axis=None, kind="stable")[:k]
