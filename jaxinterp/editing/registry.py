"""Ways to edit a model, by name.

A method is one file of `jaxinterp.editing.methods` with one decorated function. It gives what is to be added to which
parameters; that it fits the model, can be undone and kept is not its business (`jaxinterp.editing.change`).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxinterp.base.registry import Registry
from jaxinterp.editing.covariance import KeyCovariance
from jaxinterp.editing.deltas import Delta
from jaxinterp.editing.request import Request
from jaxinterp.editing.target import Target
from jaxinterp.models.language_model import LanguageModel


class Neurons(NamedTuple):
    """Some neurons of a model."""

    layer_k: Int[np.ndarray, " k"]
    neuron_k: Int[np.ndarray, " k"]


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """What an edit may read beside the model and the requests; which method reads what is said by its `needs`."""

    neurons: Sequence[Neurons] | None = None  # of each request; None: its knowledge neurons, by attribution
    covariances: Mapping[int, KeyCovariance] = dataclasses.field(default_factory=dict)  # by layer
    rephrased: Sequence[Sequence[Request]] | None = None  # of each request: itself in other words, edited as well
    kept: Sequence[str] = ()  # prompts whose outputs are to stay
    prefixes: Sequence[str] = ()  # texts before a prompt, over which keys and targets are taken
    targets: Sequence[Target] | None = None  # of each request, in the last layer that is edited; None: they are found
    earlier: Mapping[int, Float[np.ndarray, "P F"]] = dataclasses.field(default_factory=dict)  # keys of earlier edits


Deltas = Callable[[LanguageModel, Sequence[Request], Any, Given], Sequence[Delta]]


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to edit."""

    name: str
    title: str  # for people
    source: str  # a paper, or "ours"
    settings: type  # frozen dataclass with defaults
    reads: frozenset[str]  # fields of `Given` that it looks at; others may not be given
    masked: bool  # whether it edits masked models as well
    one_by_one: bool  # whether each request is edited in the model that the one before it left
    deltas: Deltas


METHODS: Registry[Method] = Registry("editing method", folder="jaxinterp.editing.methods")


def editing_method(
    name: str,
    *,
    title: str,
    source: str,
    settings: type,
    reads: Sequence[str] = (),
    masked: bool = False,
    one_by_one: bool = False,
) -> Callable[[Deltas], Deltas]:
    """Registers a function (model, requests, settings, given) -> deltas; its docstring says what it computes."""

    def register(deltas: Deltas) -> Deltas:
        method = Method(name, title, source, settings, frozenset(reads), masked, one_by_one, deltas)
        METHODS.add(name, method, deltas.__module__)
        return deltas

    return register
