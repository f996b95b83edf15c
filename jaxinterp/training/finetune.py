"""Fine-tuning a pretrained model to be suppressable: a job, and the model that comes of it."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int

from jaxinterp.base.errors import UserError
from jaxinterp.base.processes import one_process
from jaxinterp.base.provenance import provenance
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.likelihood import next_token_nll
from jaxinterp.models.mesh import batch_shardings, make_mesh, on_mesh, parameter_shardings, state_shardings
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward
from jaxinterp.objectives.loss import Metrics
from jaxinterp.training.adaptation import adapted, trainable
from jaxinterp.training.driver import Cadence, Job, NotFinite, Places, plain_line, run
from jaxinterp.training.finetune_config import FinetuneConfig
from jaxinterp.training.finetune_data import FinetuneData, finetune_batch
from jaxinterp.training.finetune_step import finetune_step
from jaxinterp.training.state import TrainState, first_state, optimiser
from jaxinterp.training.texts import TextData


def finetune(
    config: FinetuneConfig,
    original: LanguageModel,
    data: FinetuneData,
    text: TextData,
    out: Path,
    *,
    mesh: str | None = None,
) -> LanguageModel:
    """Fine-tunes a model; `out` gets `checkpoints/` and `metrics.jsonl`, and a run in it is continued.

    Args:
      config: the run.
      original: a causal language model.
      data: its known facts.
      text: neutral text.
      out: the run's folder, claimed by the caller.
      mesh: the devices that share the work, see `jaxinterp.models.mesh.make_mesh`.
    Returns:
      The fine-tuned model, in float32.
    Raises:
      UserError: if an answer has more tokens than there are rows, or as `jaxinterp.training.driver.run`.
      NotFinite: if a step is not finite.
    """
    longest = int(data.sets["objective"].answer_length_N.max())
    if longest > config.rows:
        raise UserError(f"an answer has {longest} tokens, above rows = {config.rows}; raise rows")

    one_process("fine-tuning")
    devices = make_mesh(mesh)
    # To the device once, and not with every step's inputs.
    if devices is None:
        places, still = None, jax.device_put(original.params)
    else:
        lies = parameter_shardings(devices, original.config)
        still = on_mesh(original.params, lies)
        places = Places(
            lambda state: state_shardings(devices, original.config, state),
            lambda inputs: (lies, *batch_shardings(devices, inputs[1:])),
        )

    def start(still: dict) -> TrainState:
        change_key, key = jax.random.split(jax.random.key(config.seed))
        change = trainable(still, config.adapt, config.rank, change_key)
        return first_state(change, optimiser(config.optimiser, config.steps, original.config), key)

    def inputs(step: int) -> tuple:
        batch = finetune_batch(
            data,
            seed=config.seed,
            step=step,
            n_queries=config.queries,
            n_rows=config.rows,
            n_text=config.text_queries,
            n_controls=config.controls,
        )
        return still, batch, _windows(text, config, step)

    job = Job(
        config=None,
        start=start,
        inputs=inputs,
        step=lambda objective: finetune_step(original.config, dataclasses.replace(config, objective=objective)),
        objective=config.objective,
        cadence=Cadence(config.steps, checkpoint=config.checkpoint_every, keep=config.keep_checkpoints),
        lines=_lines,
        places=places,
        given=(still,),
    )
    state = run(job, out, resume=True, title="fine-tune")
    params = jax.jit(lambda still, change: adapted(still, change, config.adapt, "float32"))(still, state.params)
    history = {
        "original": dict(original.provenance),
        "config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
    }
    model = dataclasses.replace(original.config, dtype="float32")
    return LanguageModel(Model(model, jax.device_get(params)), original.tokenizer, {**history, **provenance()})


def _lines(state: TrainState, pending: Sequence[Metrics], number: int) -> list[dict]:
    """The line of a step, each of which is logged."""
    (metrics,) = jax.device_get(pending)
    if not metrics["finite"]:
        bad = ", ".join(name for name, value in metrics.items() if not np.isfinite(value))
        raise NotFinite(
            f"step {number} is not finite ({bad}); lower optimiser.learning_rate and start in another folder"
        )
    return [{"step": number, **plain_line(metrics)}]


def _windows(text: TextData, config: FinetuneConfig, step: int) -> Int[np.ndarray, "B T"]:
    rng = np.random.default_rng([config.seed, step, 1])
    return text.training_NT[rng.integers(0, len(text.training_NT), config.text.windows)]


def perplexity(model: LanguageModel, windows_NT: Int[np.ndarray, "N T"], *, rows: int = 8) -> float:
    """exp of the mean cross-entropy of the windows' tokens but the first, in nats a token."""
    step, total = _jitted_nll(model.config), 0.0
    for start in range(0, len(windows_NT), rows):
        part = windows_NT[start : start + rows]
        padded = np.concatenate([part, np.repeat(part[:1], rows - len(part), 0)])
        total += float(np.asarray(step(model.params, padded))[: len(part)].sum())
    return math.exp(total / (len(windows_NT) * (windows_NT.shape[1] - 1)))


def _jitted_nll(config: ModelConfig):
    @jax.jit
    def nll_B(params: dict, tokens_BT: jax.Array) -> jax.Array:
        return next_token_nll(Model(config, params), forward(Model(config, params), tokens_BT), tokens_BT).sum(-1)

    return nll_B
