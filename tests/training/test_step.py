"""The step: arithmetic in bfloat16 with everything that is kept in float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from tiny import tiny_batch, tiny_config

from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.config import OptimiserConfig
from jaxinterp.training.state import initial_state
from jaxinterp.training.step import train_step

OPTIMISER = OptimiserConfig(learning_rate=1e-2, warmup_steps=1)


def run(dtype: str, steps: int = 8):
    config = tiny_config(n_layers=1)
    step = train_step(dataclasses.replace(config, dtype=dtype), ObjectiveConfig(k=2), OPTIMISER, steps)
    state, batch, losses = initial_state(config, OPTIMISER, steps, 0), jax.tree.map(jnp.asarray, tiny_batch()), []
    for number in range(steps):
        state, metrics = step(state, batch, number)
        losses.append(float(metrics["lm"]))
        assert bool(metrics["finite"])
    return state, np.array(losses)


def test_bfloat16_trains_like_float32_and_keeps_float32():
    state, losses = run("float32")
    short, short_losses = run("bfloat16")
    for leaf, same in zip(jax.tree.leaves(short[:2]), jax.tree.leaves(state[:2]), strict=True):
        assert leaf.dtype == same.dtype and leaf.dtype in (jnp.float32, jnp.int32)
    # Logits and loss are in float32 of numbers with 8 bits: near, but not the same.
    assert 1e-5 < np.abs(losses - short_losses).max() < 2e-2
    assert losses[-1] < losses[0] - 0.03 and short_losses[-1] < short_losses[0] - 0.03
    # Updates are smaller than what bfloat16 can add to most parameters, so that they need float32.
    embedding = np.asarray(short.params["embedding"])
    assert (embedding != np.asarray(jnp.asarray(embedding, jnp.bfloat16), np.float32)).mean() > 0.9
