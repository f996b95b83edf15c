"""What the terms on neurons do in training: a small model with and without them, on one batch."""

import jax
import jax.numpy as jnp
import numpy as np
from tiny import fast_readout, tiny_batch, tiny_config

from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.config import OptimiserConfig
from jaxinterp.training.state import initial_state
from jaxinterp.training.step import train_step

STEPS = 150
OPTIMISER = OptimiserConfig(learning_rate=1e-2, warmup_steps=5)
CONFIG = tiny_config(n_layers=1, d_mlp=12)


def trained(weights):
    """The loss of language modelling, and the mean |correlation| of neurons that vary over the batch's rows."""
    objective = ObjectiveConfig(weights=weights, k=1, points=1, select="stop_gradient")
    step, batch = train_step(CONFIG, objective, OPTIMISER, STEPS), jax.tree.map(jnp.asarray, tiny_batch(8, 12))
    state = initial_state(CONFIG, OPTIMISER, STEPS, 0)
    for number in range(STEPS):
        state, metrics = step(state, batch, number)
    x_RF = np.asarray(fast_readout(CONFIG, state.params, batch).neurons_LRF)[0][np.asarray(batch.answers.weight_R) > 0]
    assert (x_RF.std(0) > 1e-2 * x_RF.std(0).max()).all()  # none of them died
    correlations = np.abs(np.corrcoef(x_RF.T))[np.triu_indices(CONFIG.d_mlp, 1)]
    return float(metrics["lm"]), correlations.mean()


def test_sparse_correlation_makes_correlations_small_at_a_similar_loss():
    (plain_lm, plain), (lm, small) = trained({}), trained({"sparse_correlation": "0.3"})
    assert small < 0.7 * plain
    assert lm < plain_lm + 0.2
