"""Everything that determines a training run; imports no JAX."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.numbers_given import check_numbers, check_text
from jaxinterp.facts.splits import SplitConfig
from jaxinterp.metrics.config import ABILITY_SET
from jaxinterp.models.config import PRESETS
from jaxinterp.objectives.config import ObjectiveConfig


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which facts, and how they become tokens."""

    domains: tuple[str, ...] = ("countries",)  # of WorldFacts; () is all of them
    relations: tuple[str, ...] = ()  # of those domains; () is all of them
    limit: int = 0  # most facts of a relation, about the same subjects as far as possible; 0: all
    tokenizer: Literal["word", "bpe"] = "word"  # trained on the facts' sentences, and on the text
    vocab_size: int = 32_768  # most tokens of the tokenizer
    # Real text beside the facts: a folder with .txt, .md or .rst files, or "python", the language reference that ships
    # with Python. One document of five is held out, and never trained on. "": none
    text: str = ""
    # Most tokens of text that are trained on; the tokenizer and the held-out text are the same whatever stands here.
    # 0: all
    text_tokens: int = 0
    text_length: int = 0  # tokens of a window of text, with the one that begins it; 0: those of the longest sentence
    split: SplitConfig = SplitConfig()  # which facts and prompts the objective may use

    def __post_init__(self) -> None:
        check_numbers(self, "data.")
        for field in ("text_tokens", "text_length"):
            if getattr(self, field) < 0:
                raise UserError(f"data.{field} must be at least 0, got {getattr(self, field)}")
            if getattr(self, field) and not self.text:
                raise UserError(f"data.{field} is {getattr(self, field)}, but there is no text; give data.text")


@dataclasses.dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float = 3e-3  # peak
    warmup_steps: int = 100  # steps of linear warm-up from 0
    final: float = 0.05  # last learning rate, as a share of the peak
    weight_decay: float = 0.01  # on weight matrices and (un)embeddings, per step and unit of learning rate
    beta1: float = 0.9  # decay of the gradient's mean
    beta2: float = 0.98  # decay of the gradient's square
    clip_norm: float = 1.0  # largest global norm of a gradient
    # What is done after every step, in alphabetical order, with the number or text that each takes, as
    # sparse_weights_topk 0.1; see docs/interventions.md
    transforms: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_numbers(self, "optimiser.")
        if self.learning_rate <= 0:
            raise UserError(f"optimiser.learning_rate must be above 0, got {self.learning_rate}")
        if self.clip_norm <= 0:
            raise UserError(f"optimiser.clip_norm must be above 0, got {self.clip_norm}")
        for name, text in self.transforms.items():
            if not isinstance(text, str):
                raise UserError(f'optimiser.transforms.{name} must be text, such as "0.1", got {text!r}')
            check_text(f"optimiser.transforms.{name}", text)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run. Two runs with equal configs on one machine give equal parameters."""

    preset: str = "0.7m"  # architecture and size; see jaxinterp.models.config.PRESETS
    model: Mapping[str, str] = dataclasses.field(default_factory=dict)  # fields of the preset to change, e.g. ffn relu
    data: DataConfig = DataConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the arithmetic; parameters and optimiser stay in float32
    # Of whole sequences. cudnn: the fused kernel, for NVIDIA GPUs and dtype bfloat16; weights are the same for both
    attention: Literal["plain", "cudnn"] = "plain"
    seed: int = 0  # of initialisation, data order, controls and quadrature offsets
    steps: int = 1500  # optimiser steps
    batch_size: int = 64  # sentences a step
    text_windows: int = 0  # windows of `data.text` in each batch, beside its sentences
    # Batches whose mean gradient makes a step, one after another: for what does not fit into memory at once. The
    # controls of an answer are those of its batch
    accumulate: int = 1
    subjects: int = 8  # whose facts stand together in a batch, so that answers have controls of every kind in it
    controls: int = 1  # controls of each kind for each answer
    rows: int = 48  # answer tokens read for the objective a step, out of the batch's
    # Every token is a fact: in sentences that are not in the objective, a token of the prompt is read as well, another
    # one in every step, as an answer of a relation and a subject of its own. Answers of the objective come first where
    # rows are short; the answers of those sentences are never read. It counts in the terms and in their metrics. So is
    # a token of each window of text
    text_rows: bool = False
    # Neurons of each layer, drawn for each fact of the objective, that language modelling may teach where it predicts
    # the fact's answer: the other neurons get no gradient from there (gradient routing, Cloud et al. 2024). The terms
    # of the objective and all other positions teach every neuron. 0: no routing
    routing: int = 0
    log_every: int = 10  # steps between lines of metrics.jsonl
    # Steps between evaluations on the four sets; the last step is always evaluated. 0: never
    evaluate_every: int = 500
    checkpoint_every: int = 250  # steps between checkpoints; the last step is always saved
    keep_checkpoints: int = 2  # newest checkpoints kept
    keep_every: int = 0  # steps; checkpoints of multiples of it are kept, too. 0: none
    # SET/METRIC of the periodic evaluation, as unseen_facts/suppressability: every step that is evaluated is saved, and
    # the best one kept. With text also ability/text_cross_entropy. "": none
    keep_best: str = ""
    skip: int = 0  # steps whose loss or gradient is not finite and which are passed over; one more stops the run

    def __post_init__(self) -> None:
        check_numbers(self)
        for name, text in self.model.items():
            check_text(f"model.{name}", text)
        if self.preset not in PRESETS:
            raise unknown("preset", self.preset, PRESETS)
        if "dtype" in self.model:
            raise UserError("model.dtype cannot be chosen: parameters are kept in float32; dtype is the arithmetic's")
        if "attention_kernel" in self.model:
            raise UserError("model.attention_kernel cannot be chosen: it is no part of a model; use attention")
        if self.attention == "cudnn" and self.dtype != "bfloat16":
            raise UserError(f"attention cudnn needs dtype bfloat16, got {self.dtype}")
        if self.seed < 0:
            raise UserError(f"seed must be at least 0, got {self.seed}")
        positive = (
            "steps",
            "batch_size",
            "accumulate",
            "subjects",
            "controls",
            "rows",
            "log_every",
            "checkpoint_every",
            "keep_checkpoints",
        )
        for field in positive:
            if getattr(self, field) < 1:
                raise UserError(f"{field} must be at least 1, got {getattr(self, field)}")
        if "swaps" in self.optimiser.transforms and (self.routing or self.objective.neurons == "random"):
            raise UserError(
                "optimiser.transforms.swaps moves neurons, and routing and objective.neurons random draw a fact's "
                "neurons by their places once and for all; leave out one of them"
            )
        if self.keep_best and not self.evaluate_every:
            raise UserError("keep_best needs evaluations; set evaluate_every above 0")
        for field in ("text_windows", "evaluate_every", "routing", "keep_every", "skip"):
            if getattr(self, field) < 0:
                raise UserError(f"{field} must be at least 0, got {getattr(self, field)}")
        if self.text_windows and not self.data.text:
            raise UserError(f"text_windows is {self.text_windows}, but there is no text; give data.text")
        if self.keep_best.startswith(f"{ABILITY_SET}/") and not self.data.text:
            raise UserError(f"keep_best is {self.keep_best}, which is evaluated with text alone; give data.text")
