"""Fine-tuning a pretrained model to be suppressable: everything around the step that touches files and clocks."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from jaxinterp.base.errors import UserError
from jaxinterp.base.progress import progress
from jaxinterp.base.provenance import provenance
from jaxinterp.base.run_folder import interruptible, truncate
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.likelihood import next_token_nll
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.adaptation import adapted, trainable
from jaxinterp.training.checkpoint import Checkpoints
from jaxinterp.training.finetune_config import FinetuneConfig
from jaxinterp.training.finetune_data import FinetuneData, finetune_batch
from jaxinterp.training.finetune_step import finetune_step
from jaxinterp.training.planner import planned_step
from jaxinterp.training.state import TrainState, optimiser
from jaxinterp.training.texts import TextData


def finetune(
    config: FinetuneConfig, original: LanguageModel, data: FinetuneData, text: TextData, out: Path
) -> LanguageModel:
    """Fine-tunes a model; `out` gets `checkpoints/` and `metrics.jsonl`, and a run in it is continued.

    Args:
      config: the run.
      original: a causal language model.
      data: its known facts.
      text: neutral text.
      out: the run's folder, claimed by the caller.
    Returns:
      The fine-tuned model, in float32.
    Raises:
      UserError: if an answer has more tokens than there are rows, or a step is not finite.
    """
    longest = int(data.sets["objective"].answer_length_N.max())
    if longest > config.rows:
        raise UserError(f"an answer has {longest} tokens, above rows = {config.rows}; raise rows")

    def make(objective: ObjectiveConfig):
        return finetune_step(original.config, dataclasses.replace(config, objective=objective))

    make(config.objective)  # its mistakes are told first
    change_key, step_key = jax.random.split(jax.random.key(config.seed))
    change = trainable(original.params, config.adapt, config.rank, change_key)
    opt_state = optimiser(config.optimiser, config.steps).init(change)
    state = TrainState(change, opt_state, jnp.zeros((), jnp.int32), step_key)
    checkpoints = Checkpoints(out / "checkpoints", config.keep_checkpoints)
    try:
        if checkpoints.steps():
            state = checkpoints.restore(state)
        done = int(state.step)
        truncate(out / "metrics.jsonl", done)
        with (
            progress("fine-tune", config.steps, done=done) as report,
            interruptible() as interrupted,
            (out / "metrics.jsonl").open("a", encoding="utf-8") as log,
        ):
            planned = None
            for number in range(done, config.steps):
                batch = finetune_batch(
                    data,
                    seed=config.seed,
                    step=number,
                    n_queries=config.queries,
                    n_rows=config.rows,
                    n_text=config.text_queries,
                    n_controls=config.controls,
                )
                arguments = (state, original.params, batch, _windows(text, config, number))
                if planned is None:
                    planned = planned_step(make, config.objective, arguments)
                    report(number, planned.describe())
                state, metrics = planned.step(*arguments)
                line = {name: float(value) for name, value in jax.device_get(metrics).items()}
                if not line.pop("finite"):
                    bad = ", ".join(name for name, value in line.items() if not math.isfinite(value))
                    raise UserError(
                        f"step {number + 1} is not finite ({bad}); lower optimiser.learning_rate and start in another "
                        "folder"
                    )
                # A batch without controls has no control drop, and NaN is no JSON.
                known = {name: value if math.isfinite(value) else None for name, value in line.items()}
                log.write(json.dumps({"step": number + 1, **known}) + "\n")
                log.flush()
                report(number + 1, _words(known))
                last, stop = number + 1 == config.steps, interrupted.is_set()
                if last or stop or (number + 1) % config.checkpoint_every == 0:
                    checkpoints.save(state)
                if stop:
                    raise KeyboardInterrupt(f"stopped at step {number + 1}; start again with the same folder to go on")
    finally:
        checkpoints.close()
    params = jax.jit(lambda change: adapted(original.params, change, config.adapt, "float32"))(state.params)
    history = {"original": dict(original.provenance), "config": json.loads(json.dumps(_plain(config), default=str))}
    model = dataclasses.replace(original.config, dtype="float32")
    return LanguageModel(Model(model, jax.device_get(params)), original.tokenizer, {**history, **provenance()})


def _plain(config: FinetuneConfig) -> dict:
    return dataclasses.asdict(config)


def _windows(text: TextData, config: FinetuneConfig, step: int) -> Int[np.ndarray, "B T"]:
    rng = np.random.default_rng([config.seed, step, 1])
    return text.training_NT[rng.integers(0, len(text.training_NT), config.text.windows)]


def _words(line: dict) -> str:
    shares = {"S": "suppressability", "C": "control_drop"}
    said = [f"{short} {line[name]:.0%}" for short, name in shares.items() if line[name] is not None]
    return "  ".join([f"loss {line['loss']:.3f}", f"text KL {line['text_kl']:.4f}", *said])


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
