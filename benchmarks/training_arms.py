"""The arms that `meta_step.py` and `train_step.py` share: training steps of ours on a made-up batch."""

from typing import Any

import numpy as np
from harness import Arm, compiled, unrolled_flops

from jaxinterp.facts.controls import CONTROL_KINDS
from jaxinterp.models.config import ModelConfig
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.config import OptimiserConfig

# Peers have a constant learning rate, which costs nothing; ours has its warm-up.
OPTIMISER = OptimiserConfig(learning_rate=1e-3)
STEPS = 1000  # of the schedule
META = {"suppression": "1", "control": "1"}


def batch(vocabulary: int, n: int, length: int) -> Any:
    """B = R random sequences without padding, each read at one position in its second half.

    The controls, one of each kind, are its neighbours.
    """
    import jax
    import jax.numpy as jnp

    from jaxinterp.attribution.answers import Answers
    from jaxinterp.facts.batches import QueryBatch
    from jaxinterp.models.readout import Rows

    rng = np.random.default_rng(0)
    tokens = rng.integers(0, vocabulary, (n, length), dtype=np.int32)
    position, rows = rng.integers(length // 2, length - 1, n, dtype=np.int32), np.arange(n, dtype=np.int32)
    weight = np.broadcast_to(np.arange(length) > 0, tokens.shape).astype(np.float32)
    ones = np.ones(n, np.float32)
    control_XR = np.stack([np.roll(rows, 1 + kind) for kind in range(len(CONTROL_KINDS))])
    arrays = {
        "tokens_BT": tokens,
        "length_B": rows * 0 + length,
        "token_weight_BT": weight,
        "rows": Rows(rows, position, tokens[rows, position + 1]),
        "answers": Answers(rows, ones, control_XR, ones, np.ones((len(CONTROL_KINDS), n), np.float32)),
    }
    return jax.tree.map(jnp.asarray, QueryBatch(**arrays))


class OurTraining:
    """`train_step` compiled for a batch; `step` is what is timed, `values` what the last step found."""

    def __init__(self, model: ModelConfig, objective: ObjectiveConfig, data: Any, *, count: bool = True) -> None:
        import jax
        import jax.numpy as jnp

        from jaxinterp.training.state import initial_state, step_key
        from jaxinterp.training.step import train_step

        self.state, self.data, self.number, self.values = initial_state(model, OPTIMISER, STEPS, 0), data, 0, {}
        arguments = (self.state, data, jnp.int32(0))
        self.program, self.compile_s = compiled(train_step(model, objective, OPTIMISER, STEPS), *arguments)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
        fresh = train_step(model, objective, OPTIMISER, STEPS)
        self.flops = unrolled_flops(fresh, *abstract) if count else None
        # Before the first step donates them.
        self.params = jax.tree.map(np.array, self.state.params)
        # What `random_offset` draws in the first step, for each row.
        self.offset = np.array(jax.random.uniform(step_key(self.state), (1, len(data.answers.weight_R))))[0]

    def step(self) -> None:
        """One step."""
        import jax.numpy as jnp

        self.state, self.values = self.program(self.state, self.data, jnp.int32(self.number))
        self.number += 1

    def arm(self, steps: int) -> Arm:
        """The arm of `steps` steps a run."""
        import jax

        def run() -> None:
            for _ in range(steps):
                self.step()
            jax.block_until_ready(self.state)

        return Arm(run, steps, self.compile_s, self.flops)


def torch_arm(training: Any, steps: int, flops: float) -> Arm:
    """The arm of `steps` steps a run of a PyTorch training."""

    def run() -> None:
        for _ in range(steps):
            training.step()

    return Arm(run, steps, None, flops)
