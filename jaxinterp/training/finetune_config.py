"""Everything that determines the fine-tuning of a pretrained model; imports no JAX."""

import dataclasses
from pathlib import Path
from typing import Literal

from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.config import OptimiserConfig


@dataclasses.dataclass(frozen=True)
class FactsConfig:
    """Which facts are used: those that the model answers correctly."""

    # world, world:DOMAINS, or a file or folder of facts; or several of them. Relations of equal names in several
    # sources get their source before their name, as in pararel:P36
    source: str | tuple[str, ...] = "world"
    relations: tuple[str, ...] = ()  # of the source; () is all
    limit: int = 0  # most facts of a relation that are tried; 0 is all
    prompts: int = 3  # most prompts a fact that are tried, drawn for each fact; 0 is all
    longest: int = 16  # tokens of a text with its answer; longer ones are left out, for they cost every step
    # Prompts of relations that the objective sees which the model answers wrongly: what it would answer itself, out of
    # the relation's one-token answers, serves as a further fact of the objective. 0 is none
    beliefs: int = 4800  # most that are tried
    least_belief: float = 0.02  # probability that such an answer must have
    least: int = 4  # known facts that a relation must have; others are left out
    unseen_facts: float = 0.3  # share of the subjects that the objective never sees, in (0, 1)
    unseen_relations: tuple[str, ...] = ()  # relations that the objective never sees; () draws `n_unseen_relations`
    n_unseen_relations: int = 3  # number of relations drawn when `unseen_relations` is empty
    seed: int = 0  # of limits, prompts and the division

    def __post_init__(self) -> None:
        check_numbers(self, "facts.")
        if not self.source:
            raise UserError(f"facts.source must name facts, or several with spaces between them, got {self.source!r}")
        for field, least in (
            ("limit", 0),
            ("prompts", 0),
            ("longest", 4),
            ("beliefs", 0),
            ("least", 1),
            ("n_unseen_relations", 1),
            ("seed", 0),
        ):
            if getattr(self, field) < least:
                raise UserError(f"facts.{field} must be at least {least}, got {getattr(self, field)}")
        if not 0 < self.unseen_facts < 1:
            raise UserError(f"facts.unseen_facts must lie between 0 and 1 (exclusive), got {self.unseen_facts}")


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The neutral text on which the model should stay as it is."""

    folder: Path | None = None  # text files (.txt, .md, .rst); None is the language reference that ships with Python
    length: int = 64  # tokens of a window
    windows: int = 1  # a step
    held_out_windows: int = 64  # on which perplexity is measured; 0 is all
    tried: int = 1500  # pieces of text whose last token the model is asked, as further facts; 0 is none

    def __post_init__(self) -> None:
        check_numbers(self, "text.")
        for field, least in (("length", 8), ("windows", 1), ("held_out_windows", 0), ("tried", 0)):
            if getattr(self, field) < least:
                raise UserError(f"text.{field} must be at least {least}, got {getattr(self, field)}")


# The terms at 0 are not computed; they stand here because a command line offers the names of the default alone.
WEIGHTS = {"suppression": "2.5", "control": "3"}
OTHERS = ("concentration", "margin", "faithfulness", "one_layer", "kill_switch", "activity", "decov", "gini")
OTHERS += ("second_order", "sparse_correlation", "sparse_weights", "wiring", "balance", "depth", "early_exit")
OTHERS += ("value_agreement",)
WEIGHTS |= dict.fromkeys(OTHERS, "0")


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """A fine-tuning run: loss = KL to the original on text and on prompts + Σ weight · term."""

    facts: FactsConfig = FactsConfig()
    text: TextConfig = TextConfig()
    objective: ObjectiveConfig = ObjectiveConfig(weights=WEIGHTS, k=10, path="joint", points=2)
    controls: int = 2  # other facts of the batch, of each kind of control, whose neurons each answer is kept apart from
    text_kl: float = 1.5  # weight of KL(original ‖ model) on the text, nats a token
    prompt_kl: float = 1.5  # the same on the prompts and answers
    adapt: Literal["all", "lora"] = "all"  # what is trained
    rank: int = 16  # of lora
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the arithmetic; what is trained stays in float32
    optimiser: OptimiserConfig = OptimiserConfig(
        learning_rate=7e-5, warmup_steps=10, weight_decay=0.0, beta2=0.99, final=0.1
    )
    seed: int = 0  # of data order, controls and quadrature offsets
    steps: int = 180
    queries: int = 12  # facts a step
    text_queries: int = 4  # pieces of text a step whose last token is treated like a fact's answer; see finetune_data
    rows: int = 18  # answer tokens a step
    checkpoint_every: int = 60  # steps between checkpoints; the last step is always saved
    keep_checkpoints: int = 1  # newest checkpoints kept

    def __post_init__(self) -> None:
        check_numbers(self)
        for field in ("rank", "steps", "queries", "controls", "rows", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, field) < 1:
                raise UserError(f"{field} must be at least 1, got {getattr(self, field)}")
        if self.objective.start:
            raise UserError(
                "objective.start must be 0 in fine-tuning, where all facts are known from the first step, got "
                f"{self.objective.start}; delay a term by its schedule, such as 0@0,1@60"
            )
        if self.objective.every > self.steps:
            raise UserError(f"objective.every must be at most steps = {self.steps}, got {self.objective.every}")
        if self.optimiser.transforms and self.adapt != "all":
            raise UserError(f"optimiser.transforms change the model's own weights and need adapt all, got {self.adapt}")
        if self.text_queries and not self.text.tried:
            raise UserError("text_queries needs text.tried above 0; or set both to 0")
        for field in ("text_kl", "prompt_kl", "text_queries"):
            if getattr(self, field) < 0:
                raise UserError(f"{field} must be at least 0, got {getattr(self, field)}")
