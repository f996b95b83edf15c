"""jaxinterp: the interpretability of a language model as a number to measure honestly and to train for.

Dimension letters, used in names (`gates_LRF`) and shapes everywhere:

    B  sequences of a batch          L  layers                    V  vocabulary
    T  positions of a sequence       D  residual width (d_model)  M  quadrature points
    S  new positions of a forward    F  neurons a layer (d_mlp)   N  facts or queries
    R  rows: (sequence, position)    H  heads   K  head width    X  controls of an answer
"""

__version__ = "0.1.0"
