"""jaxinterp: the interpretability of a language model as a number to measure honestly and to train for.

Dimension letters, used in names (`gates_LRF`) and shapes everywhere:

    B  sequences of a batch          L  layers                    V  vocabulary
    T  positions of a sequence       D  residual width (d_model)  M  quadrature points
    S  new positions of a forward    F  neurons a layer (d_mlp)   N  facts or queries
    R  rows: (sequence, position)    H  heads   K  head width    X  controls of an answer

float32 means float32: products of matrices are computed in it on accelerators too, which would otherwise round their
factors to TF32 (GPUs, 10 bits of fraction) or bfloat16 (TPUs, 7), and change what is attributed to a neuron. Arrays of
bfloat16 stay what they are. JAX_DEFAULT_MATMUL_PRECISION, or jax_default_matmul_precision set before this import, comes
first.
"""

import os
import sys

PRECISION = "highest"  # of products, whose factors are then used as they are

__version__ = "0.1.0"


def _compute_as_stored() -> None:
    # Without importing JAX, so that command lines start fast: it reads the environment when it is imported.
    if "jax" not in sys.modules:
        os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", PRECISION)
    elif sys.modules["jax"].config.jax_default_matmul_precision is None:
        sys.modules["jax"].config.update("jax_default_matmul_precision", PRECISION)


_compute_as_stored()
