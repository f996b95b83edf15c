"""Training a language model on facts: a job, and the model that comes of it."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.files import delete_partial, read_json
from jaxinterp.base.processes import gathered, is_first, several, together
from jaxinterp.base.provenance import provenance
from jaxinterp.facts.batches import QueryBatch
from jaxinterp.facts.splits import SETS
from jaxinterp.metrics.config import ABILITY_SET, MeasureConfig
from jaxinterp.metrics.held_out import with_text
from jaxinterp.metrics.measure import measure
from jaxinterp.metrics.registry import METRICS
from jaxinterp.metrics.results import overall
from jaxinterp.models.config import ModelConfig, parsed_fields, preset
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.bundle import load_model, save_model
from jaxinterp.models.mesh import batch_shardings, make_mesh, placement, state_shardings
from jaxinterp.models.model import Model
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.loss import Metrics, check_objective
from jaxinterp.training.beginning import never_began, record
from jaxinterp.training.config import TrainConfig
from jaxinterp.training.data import TrainingData, batch_at
from jaxinterp.training.driver import Cadence, Job, Places, plain_line, run
from jaxinterp.training.kept_steps import kept_step
from jaxinterp.training.mesh_plan import automatic
from jaxinterp.training.non_finite import bad_steps, note
from jaxinterp.training.readout_step import Step
from jaxinterp.training.routing import Routing
from jaxinterp.training.state import TrainState, initial_state
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
            f"model.n_ctx is {n_ctx}, but the longest sentence, or window of text, has {longest} tokens; use at least "
            f"{longest}"
        )
    model = preset(config.preset, d_vocab=data.tokenizer.n_tokens, n_ctx=n_ctx, **changes)
    if config.routing >= model.d_mlp:
        raise UserError(f"routing must be below the {model.d_mlp} neurons of a layer, got {config.routing}")
    return model


def train(
    config: TrainConfig,
    data: TrainingData,
    out: Path,
    *,
    resume: bool = False,
    title: str = "train",
    mesh: str | None = None,
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
      mesh: the devices that share the work, see `jaxinterp.models.mesh.make_mesh`. A run may be continued on another
        mesh, and by another number of processes: its data are the same, and its numbers the same but for rounding.
    Raises:
      UserError: if a part of the config does not fit the data or the device, or as `run`.
      NotFinite: if the loss stops being finite, with the name of the first bad array.
    """
    model = check_run(config, data)
    computed = arithmetic(model, config)
    sizes = {"sequences": config.batch_size + config.text_windows, "tokens": data.n_positions, "rows": config.rows}
    devices = make_mesh(mesh, lambda n: automatic(computed, config.objective, **sizes, n=n))

    def lines(state: TrainState, pending: Sequence[Metrics], number: int) -> list[dict]:
        """Those of the last step, unless one was not finite that may not be passed over."""
        pending = jax.device_get(pending)
        bad = bad_steps(pending, number)
        # Without skips, those after the first one were not done.
        for step in bad if config.skip else bad[:1]:
            if (reason := note(config, computed, out, state, step, inputs_of(config, data, step))) is not None:
                raise reason
        return [{"step": number, **plain_line(pending[-1])}]

    def evaluate(state: TrainState, number: int) -> list[dict]:
        # Of several processes the first one measures, on its own devices.
        params = gathered(state.params) if several() else state.params
        if not is_first():
            return []
        return [{"step": number, "sets": evaluated(LanguageModel(Model(model, params), data.tokenizer, {}), data)}]

    def finish(state: TrainState) -> None:
        params, made = gathered(state.params), run_provenance(config, data, state)
        if is_first():
            delete_partial(out / "model")
        if is_first() and not _is_model_of(config, out / "model"):
            save_model(out / "model", LanguageModel(Model(model, params), data.tokenizer, made))
        together("model")

    job = Job(
        config=dataclasses.asdict(config),
        start=lambda: initial_state(model, config.optimiser, config.steps, config.seed),
        inputs=lambda step: inputs_of(config, data, step),
        step=lambda objective: step_of(config, computed, objective),
        objective=config.objective,
        cadence=cadence(config),
        lines=lines,
        evaluate=evaluate,
        grows=("steps",),
        data=data.digests(),
        places=None if devices is None else _places(devices, model, config),
        goodness=goodness(config.keep_best) if config.keep_best else None,
        finish=finish,
    )
    state = run(job, out, resume=resume, title=title)
    beginning = record(config.objective.start, state.known, state.begun)
    if config.objective.weights and (sentence := never_began(title, beginning)):
        print(sentence, flush=True)
    return load_model(out / "model", placement=None if several() else placement(devices))


def step_of(config: TrainConfig, model: ModelConfig, objective: ObjectiveConfig) -> Step:
    """The jitted step of a run, with its objective's memory mode decided; `model` is that of the arithmetic.

    Runs of one process whose step is the same share it, so that it is traced and compiled once.
    """
    more = {"accumulate": config.accumulate, "skip": config.skip > 0}
    return kept_step(train_step, model, objective, config.optimiser, config.steps, **more)


def _places(mesh: Mesh, model: ModelConfig, config: TrainConfig) -> Places:
    axis = 0 if config.accumulate == 1 else 1  # of its texts and rows
    return Places(lambda state: state_shardings(mesh, model, state), lambda batch: batch_shardings(mesh, batch, axis))


def goodness(name: str) -> Callable[[Mapping], float]:
    """A line of evaluations.jsonl -> a number that is higher the better the state is, from SET/METRIC.

    Raises:
      UserError: if there is no such set or metric, or it says nothing of better or worse.
    """
    set_name, _, metric = name.partition("/")
    if set_name not in (known := (*SETS, ABILITY_SET)):
        raise unknown("set of keep_best, as in unseen_facts/suppressability,", set_name, known)
    better = METRICS[metric].better
    if better == "neither":
        raise UserError(f"keep_best is {name}, but neither high nor low values of {metric} are better")
    sign = 1 if better == "higher" else -1

    def of_line(line: Mapping) -> float:
        of_set = line["sets"].get(set_name, {})
        return sign * float(of_set[metric]["value"]) if metric in of_set else math.nan

    return of_line


def _is_model_of(config: TrainConfig, folder: Path) -> bool:
    """Whether a folder has the model of a run of so many steps, and not of the run before it was prolonged."""
    if not (folder / "config.json").exists():
        return False
    return read_json(folder / "provenance.json")["config"]["steps"] == config.steps


def cadence(config: TrainConfig) -> Cadence:
    """How often a run with this config does what."""
    every = (config.checkpoint_every, config.log_every, config.evaluate_every)
    return Cadence(config.steps, *every, keep=config.keep_checkpoints, keep_every=config.keep_every)


def check_run(config: TrainConfig, data: TrainingData) -> ModelConfig:
    """The run's model, once it is known that the run's parts fit one another and the data, whatever the machine.

    Raises:
      UserError: if a field of the model or a term is unknown, k does not fit the model, or an answer that the objective
        may read does not fit into a batch's rows.
    """
    model = model_config(config, data)
    check_objective(config.objective, model.n_neurons)
    if config.keep_best:
        goodness(config.keep_best)
    if (tokens := int(data.queries.answer_length_N[data.in_objective_N].max())) > config.rows:
        raise UserError(f"an answer has {tokens} tokens, above rows = {config.rows}; raise rows")
    return model


def arithmetic(model: ModelConfig, config: TrainConfig) -> ModelConfig:
    """The model as a step computes it; it is kept in float32.

    Raises:
      UserError: if the device has not what the config asks for.
    """
    if config.attention == "cudnn" and jax.default_backend() != "gpu":
        raise UserError(f"attention cudnn needs an NVIDIA GPU, and JAX runs on {jax.default_backend()}; use plain")
    return dataclasses.replace(model, dtype=config.dtype, attention_kernel=config.attention)


def inputs_of(config: TrainConfig, data: TrainingData, step: int) -> QueryBatch:
    """What a step is given: its batch, or with `config.accumulate` above 1 its batches, along a leading axis."""
    n = config.accumulate
    if n == 1:
        return batch_of(config, data, step)
    return jax.tree.map(lambda *parts: np.stack(parts), *(batch_of(config, data, n * step + i) for i in range(n)))


def batch_of(config: TrainConfig, data: TrainingData, step: int) -> QueryBatch:
    """The batch of a number, which is a step's if a step has one."""
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
        n_windows=config.text_windows,
        text_rows=config.text_rows,
        routing=routing,
    )


def run_provenance(config: TrainConfig, data: TrainingData, state: TrainState) -> dict:
    """What a model's folder says of how it was trained."""
    facts = {"facts": len(data.facts), "sha256": data.facts.digest(), "dropped": dict(data.facts.dropped)}
    if data.text is not None:
        facts["text"] = data.text.plain()
    beginning = record(config.objective.start, state.known, state.begun)
    return {"config": dataclasses.asdict(config), "data": facts, "beginning": beginning, **provenance()}


def evaluated(bundle: LanguageModel, data: TrainingData) -> dict:
    """A small measurement on the four sets: set -> metric -> value with its interval.

    With text also the set "ability", with recall and cross-entropy of training sentences and of held-out text.
    """
    found = measure(bundle, data.facts, data.split, EVALUATION)
    if data.text is None:
        return overall(found.sets)
    return overall({**found.sets, ABILITY_SET: with_text(found, bundle, data.text.held_out, EVALUATION).ability})
