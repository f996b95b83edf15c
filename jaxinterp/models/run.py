"""What a language model computed on texts."""

import dataclasses
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True, repr=False)
class Tokens:
    """A text as its model reads it, with what the model expects before and after it. Iterating gives ids."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]  # each token as a person reads it: " Paris" with its space

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids)

    def __repr__(self) -> str:
        """Positions beside tokens, for edits name positions."""
        return "Tokens(" + ", ".join(f"{position}: {text!r}" for position, text in enumerate(self.texts)) + ")"


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Run:
    """What a model computed on B texts of at most T tokens; positions from a text's length on are padding."""

    tokens: tuple[Tokens, ...]  # of each text, without padding
    tokens_BT: Int[np.ndarray, "B T"]
    length_B: Int[np.ndarray, " B"]
    logits_BTV: Float[Array, "B T V"]
    # By name, with a leading layer axis (but for "embed"); see `jaxinterp.models.places.PLACES`
    activations: Mapping[str, Array]

    def log_probabilities(self, position: int = -1) -> Float[np.ndarray, "B V"]:
        """log P of every token after a position of each text, in nats; negative positions count from the text's end.

        Raises:
          IndexError: if a text has no such position.
        """
        at = [range(length)[position] for length in self.length_B.tolist()]
        return np.asarray(jax.nn.log_softmax(self.logits_BTV[np.arange(len(at)), np.array(at)]))

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in self.activations.items())
        lengths = f"{len(self.tokens)} texts of at most {self.tokens_BT.shape[1]} tokens"
        return f"Run({lengths}; logits {list(self.logits_BTV.shape)}{', ' * bool(shapes)}{shapes})"
