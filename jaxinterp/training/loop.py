"""Training a language model on facts: a job, and the model that comes of it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
from jax.sharding import Mesh

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json
from jaxinterp.base.provenance import provenance
from jaxinterp.facts.batches import QueryBatch
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.measure import measure
from jaxinterp.metrics.results import overall
from jaxinterp.models.config import ModelConfig, parsed_fields, preset
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.bundle import load_model, save_model
from jaxinterp.models.model import Model
from jaxinterp.objectives.loss import Metrics, term_weights
from jaxinterp.training.beginning import never_began, record
from jaxinterp.training.config import TrainConfig
from jaxinterp.training.data import TrainingData, batch_at
from jaxinterp.training.diagnosis import first_non_finite
from jaxinterp.training.driver import Cadence, Job, NotFinite, Places, plain_line, run
from jaxinterp.training.mesh import batch_shardings, make_mesh, state_shardings
from jaxinterp.training.routing import Routing
from jaxinterp.training.state import TrainState, initial_state, step_key
from jaxinterp.training.step import train_step

EVALUATION = MeasureConfig(
    queries=96, ability_queries=512, ablation_queries=0, replicates=200
)  # the periodic one: small


def model_config(config: TrainConfig, data: TrainingData) -> ModelConfig:
    """The model that the config asks for, with the data's vocabulary and room for its longest sentence.

    Raises:
      UserError: if a field is unknown or does not fit.
    """
    changes = parsed_fields(config.model)
    if "d_vocab" in changes:
        raise UserError("model.d_vocab is the tokenizer's number of tokens and cannot be chosen; see data.vocab_size")
    longest = data.n_positions
    n_ctx = changes.pop("n_ctx", longest)
    if n_ctx < longest:
        raise UserError(
            f"model.n_ctx is {n_ctx}, but the longest sentence has {longest} tokens; use at least {longest}"
        )
    model = preset(config.preset, d_vocab=data.tokenizer.n_tokens, n_ctx=n_ctx, **changes)
    if config.routing >= model.d_mlp:
        raise UserError(f"routing must be below the {model.d_mlp} neurons of a layer, got {config.routing}")
    return model


def train(
    config: TrainConfig, data: TrainingData, out: Path, *, resume: bool = False, title: str = "train", mesh: str = ""
) -> LanguageModel:
    """Trains a model; what it leaves behind stands in `out`.

    What `jaxinterp.training.driver.run` leaves, and at the end `model/` (see `models.loading.bundle`).

    Args:
      config: the run.
      data: as from `training_data(config.data)`.
      out: the run's folder.
      resume: continue from the newest checkpoint in `out`; the result is that of an uninterrupted run, bit for bit.
        With more steps than before the run is prolonged, also one that is done; the learning rate is then, from there
        on, that of a run of so many steps.
      title: of the progress bar.
      mesh: the devices that share the work, as "data=2,fsdp=4"; see `jaxinterp.training.mesh`. A run may be continued
        on another mesh: its data are the same, and its numbers the same but for rounding.
    Raises:
      UserError: if a part of the config does not fit the data or the device, or as `run`.
      NotFinite: if the loss stops being finite, with the name of the first bad array.
    """
    model = model_config(config, data)
    check_rows(config, data)
    computed = arithmetic(model, config)
    devices = make_mesh(mesh)

    def lines(state: TrainState, pending: Sequence[Metrics], number: int) -> list[dict]:
        """Those of the last step, if all were finite."""
        pending = jax.device_get(pending)
        for step, metrics in enumerate(pending, number - len(pending)):
            if not metrics["finite"]:
                weights = term_weights(config.objective, state.begun)
                bad = batch_of(config, data, step), weights, step_key(state)
                name = first_non_finite(computed, config.objective, state.params, *bad)
                raise NotFinite(f"step {step + 1} is not finite; the first bad array is {name}")
        return [{"step": number, **plain_line(pending[-1])}]

    def evaluate(state: TrainState, number: int) -> list[dict]:
        bundle = LanguageModel(Model(model, state.params), data.tokenizer, {})
        return [{"step": number, "sets": evaluated(bundle, data)}]

    job = Job(
        config=dataclasses.asdict(config),
        start=lambda: initial_state(model, config.optimiser, config.steps, config.seed),
        inputs=lambda step: batch_of(config, data, step),
        step=lambda objective: train_step(computed, objective, config.optimiser, config.steps),
        objective=config.objective,
        cadence=cadence(config),
        lines=lines,
        evaluate=evaluate,
        grows=("steps",),
        data={"facts": data.facts.digest()},
        places=None if devices is None else _places(devices, model),
    )
    state = run(job, out, resume=resume, title=title)
    beginning = record(config.objective.start, state.known, state.begun)
    if config.objective.weights and (sentence := never_began(title, beginning)):
        print(sentence, flush=True)
    if not _is_model_of(config, out / "model"):
        params, made = jax.device_get(state.params), run_provenance(config, data, state)
        save_model(out / "model", LanguageModel(Model(model, params), data.tokenizer, made))
    return load_model(out / "model")


def _places(mesh: Mesh, model: ModelConfig) -> Places:
    return Places(lambda state: state_shardings(mesh, model, state), lambda batch: batch_shardings(mesh, batch))


def _is_model_of(config: TrainConfig, folder: Path) -> bool:
    """Whether a folder has the model of a run of so many steps, and not of the run before it was prolonged."""
    if not (folder / "config.json").exists():
        return False
    return read_json(folder / "provenance.json")["config"]["steps"] == config.steps


def cadence(config: TrainConfig) -> Cadence:
    """How often a run with this config does what."""
    every = (config.checkpoint_every, config.log_every, config.evaluate_every)
    return Cadence(config.steps, *every, keep=config.keep_checkpoints)


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


def batch_of(config: TrainConfig, data: TrainingData, step: int) -> QueryBatch:
    """The batch of a step."""
    routing = None
    if config.routing:
        model = model_config(config, data)
        routing = Routing(config.routing, model.n_layers, model.d_mlp, config.seed)
    return batch_at(
        data,
        seed=config.seed,
        step=step,
        n_sequences=config.batch_size,
        n_rows=config.rows,
        n_subjects=config.subjects,
        n_controls=config.controls,
        text_rows=config.text_rows,
        routing=routing,
    )


def run_provenance(config: TrainConfig, data: TrainingData, state: TrainState) -> dict:
    """What a model's folder says of how it was trained."""
    facts = {"facts": len(data.facts), "sha256": data.facts.digest(), "dropped": dict(data.facts.dropped)}
    beginning = record(config.objective.start, state.known, state.begun)
    return {"config": dataclasses.asdict(config), "data": facts, "beginning": beginning, **provenance()}


def evaluated(bundle: LanguageModel, data: TrainingData) -> dict:
    """A small measurement on the four sets: set -> metric -> value with its interval."""
    return overall(measure(bundle, data.facts, data.split, EVALUATION).sets)
