"""The training loop: everything around the step that touches files, clocks and the terminal."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from jaxinterp.base.errors import UserError
from jaxinterp.base.progress import progress
from jaxinterp.base.provenance import provenance
from jaxinterp.base.run_folder import claim, interruptible, truncate
from jaxinterp.facts.encoding import QueryBatch
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.measure import measure
from jaxinterp.metrics.results import overall
from jaxinterp.models.config import ModelConfig, preset
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.bundle import load_model, save_model
from jaxinterp.models.model import Model
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.loss import term_weights
from jaxinterp.training.checkpoint import Checkpoints
from jaxinterp.training.config import TrainConfig
from jaxinterp.training.data import TrainingData, batch_at
from jaxinterp.training.diagnosis import NotFinite, first_non_finite
from jaxinterp.training.planner import planned_step
from jaxinterp.training.prefetch import prefetched
from jaxinterp.training.state import TrainState, initial_state
from jaxinterp.training.step import step_key, train_step

EVALUATION = MeasureConfig(
    queries=96, ability_queries=512, ablation_queries=0, replicates=200
)  # the periodic one: small


def model_config(config: TrainConfig, data: TrainingData) -> ModelConfig:
    """The model that the config asks for, with the data's vocabulary and room for its longest sentence.

    Raises:
      UserError: if a field is unknown or does not fit.
    """
    fields = {field.name: field.type for field in dataclasses.fields(ModelConfig)}
    changes: dict[str, object] = {}
    for name, text in config.model.items():
        kind = fields.get(name)
        try:
            changes[name] = {int: int, float: float, bool: _boolean}.get(kind, str)(text)
        except ValueError:
            raise UserError(f"model.{name} must be of type {kind.__name__}, got {text!r}") from None
    if "d_vocab" in changes:
        raise UserError("model.d_vocab is the tokenizer's number of tokens and cannot be chosen; see data.vocab_size")
    longest = data.n_positions
    n_ctx = changes.pop("n_ctx", longest)
    if n_ctx < longest:
        raise UserError(
            f"model.n_ctx is {n_ctx}, but the longest sentence has {longest} tokens; use at least {longest}"
        )
    return preset(config.preset, d_vocab=data.tokenizer.n_tokens, n_ctx=n_ctx, **changes)


def train(
    config: TrainConfig, data: TrainingData, out: Path, *, resume: bool = False, title: str = "train"
) -> LanguageModel:
    """Trains a model; what it leaves behind stands in `out`.

    `config.json` (config and provenance), `metrics.jsonl` (a line every `log_every` steps), `evaluations.jsonl`,
    `checkpoints/`, and at the end `model/` (see `models.loading.bundle`). Ctrl-C and SIGTERM save a checkpoint first.

    Args:
      config: the run.
      data: as from `training_data(config.data)`.
      out: the run's folder.
      resume: continue from the newest checkpoint in `out`; the result is that of an uninterrupted run, bit for bit.
      title: of the progress bar.
    Raises:
      UserError: if `out` cannot be written, holds a run already (without `resume`), or another run (with it); or if
        the loss stops being finite, with the name of the first bad array.
    """
    model = model_config(config, data)
    check_rows(config, data)

    def make(objective: ObjectiveConfig):
        return train_step(arithmetic(model, config), objective, config.optimiser, config.steps)

    make(config.objective)  # its mistakes are told before the folder is claimed
    claim(dataclasses.asdict(config), out, resume)
    state = initial_state(model, config.optimiser, config.steps, config.seed)
    checkpoints = Checkpoints(out / "checkpoints", config.keep_checkpoints)
    try:
        if resume and checkpoints.steps():
            state = checkpoints.restore(state)
        done = int(state.step)
        if done == config.steps and (out / "model" / "config.json").exists():
            return load_model(out / "model")
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            truncate(out / name, done)
        with (
            progress(title, config.steps, done=done) as report,
            interruptible() as interrupted,
            (out / "metrics.jsonl").open("a", encoding="utf-8") as log,
            contextlib.closing(batches(config, data, done)) as inputs,
        ):
            pending: list[Mapping] = []
            planned = None
            for number, batch in enumerate(inputs, done):
                if planned is None:
                    planned = planned_step(make, config.objective, (state, batch, number))
                    report(number, planned.describe())
                state, metrics = planned.step(state, batch, number)
                pending.append(metrics)
                last, stop = number + 1 == config.steps, interrupted.is_set()
                save = last or stop or (number + 1) % config.checkpoint_every == 0
                evaluate = config.evaluated(number + 1)
                if save or evaluate or (number + 1) % config.log_every == 0:
                    line = _checked(pending, number + 1, model, config, data, state, checkpoints)
                    pending = []
                    log.write(json.dumps(line) + "\n")
                    log.flush()
                    report(number + 1, _words(line))
                # Before the checkpoint, so that a run resumed from it has all evaluations up to it.
                if evaluate:
                    _evaluate(LanguageModel(Model(model, state.params), data.tokenizer, {}), data, out, number + 1)
                if save:
                    checkpoints.save(state)
                if stop:
                    raise KeyboardInterrupt(f"stopped at step {number + 1}; continue with --resume and the same folder")
        result = LanguageModel(Model(model, jax.device_get(state.params)), data.tokenizer, run_provenance(config, data))
        save_model(out / "model", result)
        return result
    finally:
        checkpoints.close()


def check_rows(config: TrainConfig, data: TrainingData) -> None:
    """UserError if an answer that the objective may read does not fit into a batch's rows."""
    if (tokens := int(data.queries.answer_length_N[data.in_objective_N].max())) > config.rows:
        raise UserError(f"an answer has {tokens} tokens, above rows = {config.rows}; raise rows")


def arithmetic(model: ModelConfig, config: TrainConfig) -> ModelConfig:
    """The model as a step computes it; it is kept in float32.

    Raises:
      UserError: if the device has not what the config asks for.
    """
    if config.attention == "cudnn" and jax.default_backend() != "gpu":
        raise UserError(f"attention cudnn needs an NVIDIA GPU, and JAX runs on {jax.default_backend()}; use plain")
    return dataclasses.replace(model, dtype=config.dtype, attention_kernel=config.attention)


def batches(config: TrainConfig, data: TrainingData, first: int) -> Iterator[QueryBatch]:
    """The batches of the steps from `first` on, on the device, made ahead in a thread; to be closed."""
    return prefetched(lambda step: jax.device_put(batch_of(config, data, step)), range(first, config.steps))


def batch_of(config: TrainConfig, data: TrainingData, step: int) -> QueryBatch:
    """The batch of a step."""
    return batch_at(
        data,
        seed=config.seed,
        step=step,
        n_sequences=config.batch_size,
        n_rows=config.rows,
        n_subjects=config.subjects,
        n_controls=config.controls,
    )


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def run_provenance(config: TrainConfig, data: TrainingData) -> dict:
    """What a model's folder says of how it was trained."""
    facts = {"facts": len(data.facts), "sha256": data.facts.digest(), "dropped": dict(data.facts.dropped)}
    return {"config": dataclasses.asdict(config), "data": facts, **provenance()}


def _checked(
    pending: list[Mapping],
    number: int,
    model: ModelConfig,
    config: TrainConfig,
    data: TrainingData,
    state: TrainState,
    checkpoints: Checkpoints,
) -> dict:
    """The last step's metrics as a line of the log; NotFinite if any of the steps was not finite."""
    for offset, metrics in enumerate(jax.device_get(pending)):
        if metrics["finite"]:
            continue
        bad = number - len(pending) + offset
        batch, weights = batch_of(config, data, bad), term_weights(config.objective, state.step)
        computed = arithmetic(model, config)
        name = first_non_finite(computed, config.objective, state.params, batch, weights, step_key(state))
        steps = checkpoints.steps()
        good = (
            f"the last good checkpoint is {checkpoints.folder / str(steps[-1])}" if steps else "there is no checkpoint"
        )
        raise NotFinite(f"step {bad + 1} is not finite; the first bad array is {name}; {good}")
    return {"step": number, **plain_line(metrics)}


def plain_line(metrics: Mapping) -> dict[str, float | None]:
    """A step's metrics for a line of JSON, which has no NaN; without "finite"."""
    values = {name: float(value) for name, value in metrics.items() if name != "finite"}
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def _words(line: Mapping) -> str:
    parts = [f"loss {line['loss']:.3f}"]
    for name, letter in (("suppressability", "S"), ("control_drop", "C")):
        if line.get(name) is not None:
            parts.append(f"{letter} {line[name]:.0%}")
    return "  ".join(parts)


def evaluated(bundle: LanguageModel, data: TrainingData) -> dict:
    """A small measurement on the four sets: set -> metric -> value with its interval."""
    return overall(measure(bundle, data.facts, data.split, EVALUATION).sets)


def _evaluate(bundle: LanguageModel, data: TrainingData, out: Path, step: int) -> None:
    line = {"step": step, "sets": evaluated(bundle, data)}
    with (out / "evaluations.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")
