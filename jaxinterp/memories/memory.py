"""One neuron as a memory: what triggers it, what that has in common, and what it then promotes."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from jaxinterp.base.errors import UserError
from jaxinterp.facts.facts import FactSet
from jaxinterp.memories.contexts import Contexts, contexts_of, fact_texts
from jaxinterp.memories.corpus import Corpus, corpus_of
from jaxinterp.memories.labels import Label, Labeller
from jaxinterp.memories.triggers import TOKENS, K, Triggers, top_triggers
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.lens import as_unembedded, unembedding
from jaxinterp.report.shown import Part, Shown, visible

BEFORE, AFTER = 12, 4  # tokens that are shown around a trigger


@dataclasses.dataclass(frozen=True)
class Trigger:
    """One of the tokens on which a neuron is most active."""

    activation: float
    before: str  # what stands before it in its window, the end of it
    token: str
    after: str
    text: int  # number of the text
    position: int  # of the token in its text, those around a text not counted


@dataclasses.dataclass(frozen=True, repr=False)
class Memory(Shown):
    """A neuron: its triggers, the highest activation first, their label, and what its value vector promotes."""

    layer: int
    neuron: int
    label: Label | None  # None: its triggers have nothing in common
    triggers: tuple[Trigger, ...]  # of activations above 0
    promotes: tuple[tuple[str, float], ...]  # tokens and their logits for an activation of 1, without the final norm
    suppresses: tuple[tuple[str, float], ...]

    def parts(self) -> Sequence[Part]:
        """Its label, a table of triggers, and tokens."""
        table = Table("activation", "before", "token", "after")
        for trigger in self.triggers:
            table.add_row(f"{trigger.activation:#.3g}", trigger.before, visible(trigger.token), trigger.after)
        lines: list[Part] = [f"layer {self.layer}, neuron {self.neuron}: {label_text(self.label)}"]
        lines += [table] if self.triggers else ["never active on these texts"]
        for what, tokens in (("promotes", self.promotes), ("suppresses", self.suppresses)):
            lines.append(f"its value {what}: " + ", ".join(f"{visible(token)} {logit:+.2f}" for token, logit in tokens))
        return lines

    def to_json(self) -> dict:
        """Plain values."""
        found = dataclasses.asdict(self)
        return {**found, "label": None if self.label is None else self.label._asdict()}


@dataclasses.dataclass(frozen=True, eq=False)
class Memories:
    """All neurons of a model on one corpus."""

    model: LanguageModel
    corpus: Corpus
    contexts: Contexts
    triggers: Triggers
    n_dropped: int = 0  # sentences of facts with words that the model does not know

    def memory(self, layer: int, neuron: int, k: int = 10, n_tokens: int = 10) -> Memory:
        """One neuron, with at most k of its triggers; its label is that of all.

        Args:
          layer: 0 … L − 1.
          neuron: 0 … F − 1.
          k: triggers shown.
          n_tokens: that its value promotes most, and suppresses most.
        Raises:
          UserError: if there is no such neuron, or a number is below 1.
        """
        check_neuron(self.model, layer, neuron)
        for name, number in (("k", k), ("n_tokens", n_tokens)):
            if number < 1:
                raise UserError(f"{name} of a memory must be at least 1, got {number}")
        logit_V = value_logits(self.model, layer, np.array([neuron]))[0]
        order = np.argsort(-logit_V, kind="stable")[: self.model.tokenizer.n_tokens]
        named = [(self.model.tokenizer.token(int(id)), float(logit_V[id])) for id in order]
        return Memory(
            layer,
            neuron,
            self.label(layer, neuron),
            tuple(self._trigger(layer, neuron, rank) for rank in range(min(k, self._n_active(layer, neuron)))),
            tuple(named[:n_tokens]),
            tuple(named[: -n_tokens - 1 : -1]),
        )

    def label(self, layer: int, neuron: int) -> Label | None:
        """What the neuron's triggers have in common."""
        n = self._n_active(layer, neuron)
        places = self.triggers.window_LFK[layer, neuron, :n], self.triggers.position_LFK[layer, neuron, :n]
        return self._labeller.label(self.contexts.context_NT[places])

    @functools.cached_property
    def _labeller(self) -> Labeller:
        return Labeller(self.contexts)

    def _n_active(self, layer: int, neuron: int) -> int:
        return int((self.triggers.activation_LFK[layer, neuron] > 0).sum())

    def _trigger(self, layer: int, neuron: int, rank: int) -> Trigger:
        activation, window, position = (of[layer, neuron, rank].item() for of in self.triggers)
        tokenizer, corpus = self.model.tokenizer, self.corpus
        start, stop = len(tokenizer.prefix), int(corpus.length_N[window]) - len(tokenizer.suffix)
        ids = corpus.tokens_NT[window].tolist()
        return Trigger(
            activation,
            tokenizer.text(ids[max(start, position - BEFORE) : position]),
            tokenizer.token(ids[position]),
            tokenizer.text(ids[position + 1 : min(stop, position + 1 + AFTER)]),
            int(corpus.text_N[window]),
            int(corpus.first_N[window]) + position - start,
        )


def memories(
    model: LanguageModel,
    facts: FactSet | None = None,
    texts: Iterable[str] = (),
    *,
    k: int = K,
    width: int | None = None,
    tokens: int = TOKENS,
    kept: Path | None = None,
    seed: int = 0,
) -> Memories:
    """The triggers of all neurons on facts or on texts; equal contexts count once.

    Args:
      model: any.
      facts: whose sentences are read; those that the model has no words for are counted.
      texts: that are read if there are no facts.
      k: triggers of each neuron.
      width: tokens of a window; None is the model's context.
      tokens: of a batch.
      kept: a file from which an interrupted scan goes on.
      seed: of the order of facts' sentences.
    Raises:
      UserError: as `corpus_of` and `top_triggers`, or if no sentence can be read.
    """
    told = None if facts is None else fact_texts(facts, model.tokenizer, seed)
    corpus = corpus_of(model, texts if told is None else told.texts, width)
    contexts = contexts_of(model, corpus, None if told is None else told.told)
    triggers = top_triggers(model, corpus, k, among_NT=contexts.first_NT, tokens=tokens, kept=kept)
    return Memories(model, corpus, contexts, triggers, 0 if told is None else told.dropped)


def value_logits(model: LanguageModel, layer: int, neuron_N: np.ndarray) -> np.ndarray:
    """What neurons of a layer add to each token's logit for an activation of 1; see `models.lens`: [N, V]."""
    layer_params = jax.tree.map(lambda x: jnp.asarray(x[layer]), model.params["layers"])
    values = as_unembedded(model.model, layer_params, layer_params["w_out"][neuron_N])
    return np.asarray(values @ unembedding(model.model).T)


def check_neuron(model: LanguageModel, layer: int, neuron: int) -> None:
    """UserError if the model has no such neuron."""
    for what, number, n in (("layer", layer, model.config.n_layers), ("neuron", neuron, model.config.d_mlp)):
        if not 0 <= number < n:
            raise UserError(f"there is no {what} {number}; give a number from 0 to {n - 1}")


def label_text(label: Label | None) -> str:
    """A label in words."""
    if label is None:
        return "no label: its triggers have nothing in common"
    base = f"{100 * label.base:.2g}%"
    return f"{label.kind} {label.value!r}, {label.share:.0%} of {label.n} triggers against {base} of all"
