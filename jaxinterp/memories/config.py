"""How memories are looked for, labelled and tried out; imports no JAX."""

import dataclasses
from pathlib import Path

from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_numbers


@dataclasses.dataclass(frozen=True)
class CausalConfig:
    """What is amplified and switched off."""

    neurons: int = 100  # of each layer, drawn from those with enough triggers; 0: all of them
    triggers: int = 10  # of each neuron, those with the highest activation
    tokens: int = 10  # that a value promotes most
    factor: float = 2.0  # of an amplified activation, above 1
    batch: int = 32  # triggers at once
    replicates: int = 2000  # of the intervals
    level: float = 0.95  # of the intervals
    seed: int = 0  # of neurons, of other neurons, of random vectors, and of replicates

    def __post_init__(self) -> None:
        check_numbers(self, "causal.")
        for name in ("triggers", "tokens", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"causal.{name} must be at least 1, got {getattr(self, name)}")
        for name, low in (("neurons", 0), ("replicates", 2), ("seed", 0)):
            if getattr(self, name) < low:
                raise UserError(f"causal.{name} must be at least {low}, got {getattr(self, name)}")
        if self.factor <= 1:
            raise UserError(f"causal.factor must be above 1, got {self.factor}")
        if not 0 < self.level < 1:
            raise UserError(f"causal.level must be above 0 and below 1, got {self.level}")


@dataclasses.dataclass(frozen=True)
class FiguresConfig:
    """What is looked at."""

    layers: tuple[int, ...] = ()  # whose memories are read; all if none is named
    examples: int = 2000  # places of the corpus for composition and refinement
    switched: int = 100  # neurons of each layer that are switched off at their first trigger
    cut_neurons: int = 100  # neurons of each layer whose triggers are cut
    cut_triggers: int = 5  # of each
    bins: int = 10  # of values by confidence
    n_prefix: int = 1  # tokens at the beginning of a window that are no text, as <bos>; a study has the tokenizer's
    level: float = 0.95  # of intervals
    seed: int = 0  # of draws

    def __post_init__(self) -> None:
        check_numbers(self, "figures.")
        if min(self.examples, self.switched, self.cut_neurons, self.cut_triggers, self.bins) < 1:
            raise UserError("figures.examples, switched, cut_neurons, cut_triggers and bins must be at least 1")
        if not 0 < self.level < 1 or self.n_prefix < 0 or self.seed < 0:
            raise UserError("figures.level must lie between 0 and 1, n_prefix and seed be at least 0")


@dataclasses.dataclass(frozen=True)
class MemoriesConfig:
    """A model, what it reads, and what is asked of its neurons."""

    model: str = "reference-plain"  # a name of `jaxinterp models list`, a folder, a .gguf file, or organisation/name
    facts: str = "world:countries"  # whose sentences are read, as of `jaxinterp facts show`
    # Folder of text files (.txt, .md, .rst) that are read instead; then no label says what facts are about
    text: Path | None = None
    triggers: int = 25  # of each neuron
    width: int = 128  # tokens of a window, at most the model's context
    tokens: int = 512  # of a batch of rows
    plants: int = 100  # of each kind, with known triggers, on which labels are graded; 0: none
    noise: float = 0.2  # of their triggers, that have nothing to do with the pattern; 0 … 1, below 1
    causal: CausalConfig = CausalConfig()
    # By which values are read for the figures of Geva et al.; none: no figures
    lenses: tuple[str, ...] = ("raw", "norm_folded", "tuned", "jacobian")
    figures: FiguresConfig = FiguresConfig()
    legible: int = 200  # facts whose knowledge neurons' values are read; 0: none
    pages: int = 0  # neurons of each layer that have a page, the first ones; 0: all
    carried: int = 20  # facts that are linked with the neurons that carry them; 0: none
    seed: int = 0  # of the order of texts, of plants, and of facts

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("triggers", "width", "tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("plants", "pages", "carried", "legible", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.noise < 1:
            raise UserError(f"noise must be at least 0 and below 1, got {self.noise}")
        if self.causal.triggers > self.triggers:
            raise UserError(f"causal.triggers must be at most triggers, {self.triggers}, got {self.causal.triggers}")
