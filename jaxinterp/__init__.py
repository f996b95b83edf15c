"""jaxinterp: the interpretability of a language model as a number to measure honestly and to train for.

Use it as `import jaxinterp as ji`. A name of `__all__` is imported when it is first used, so that the import itself is
fast and needs no JAX. Everything else is in the subpackages.

Dimension letters, used in names (`gates_LRF`) and shapes everywhere:

    B  sequences of a batch          L  layers                    V  vocabulary
    T  positions of a sequence       D  residual width (d_model)  M  quadrature points
    S  new positions of a forward    F  neurons per layer, d_mlp  N  facts, queries or answers
    R  rows: (sequence, position)    H  heads   K  head width    X  controls of an answer
    U  all neurons, L · F            C  coordinates in which a layer's neurons add up (`Branches`)

float32 means float32: products of matrices are computed in it on accelerators too, which would otherwise round their
factors to TF32 (GPUs, 10 bits of fraction) or bfloat16 (TPUs, 7), and change what is attributed to a neuron. Arrays of
bfloat16 stay what they are. JAX_DEFAULT_MATMUL_PRECISION, or jax_default_matmul_precision set before this import, comes
first.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for editors and type checkers; everyone else opens names by `__getattr__`
    from jaxinterp.api.attribute import attribute
    from jaxinterp.api.measured import measure
    from jaxinterp.api.reported import write_report
    from jaxinterp.api.trained import train
    from jaxinterp.attribution.edits import amplify, set_to, suppress
    from jaxinterp.attribution.integrated_gradients import integrated_gradients
    from jaxinterp.attribution.quadrature import quadrature
    from jaxinterp.attribution.readout import FunctionReadout, Readout
    from jaxinterp.attribution.selection import top_k
    from jaxinterp.circuits.attention import attention_chart
    from jaxinterp.circuits.inputs import attribute_parts
    from jaxinterp.circuits.logit_attribution import logit_attribution
    from jaxinterp.circuits.patching import patching
    from jaxinterp.circuits.path_patching import path_patching
    from jaxinterp.facts.source import load_facts
    from jaxinterp.metrics.examples import ReadoutExamples
    from jaxinterp.metrics.registry import metric
    from jaxinterp.models.decoding import Sampler
    from jaxinterp.models.edit import Edit
    from jaxinterp.models.loading.bundle import load_model
    from jaxinterp.objectives.registry import objective

__version__ = "0.1.0"
__all__ = [
    "Edit",
    "FunctionReadout",
    "Readout",
    "ReadoutExamples",
    "Sampler",
    "amplify",
    "attention_chart",
    "attribute",
    "attribute_parts",
    "integrated_gradients",
    "load_facts",
    "load_model",
    "logit_attribution",
    "measure",
    "metric",
    "objective",
    "patching",
    "path_patching",
    "quadrature",
    "set_to",
    "suppress",
    "top_k",
    "train",
    "write_report",
]

PRECISION = "highest"  # of products, whose factors are then used as they are
_MODULES = {
    "api.attribute": ("attribute",),
    "api.measured": ("measure",),
    "api.reported": ("write_report",),
    "api.trained": ("train",),
    "attribution.edits": ("amplify", "set_to", "suppress"),
    "attribution.integrated_gradients": ("integrated_gradients",),
    "attribution.quadrature": ("quadrature",),
    "attribution.readout": ("FunctionReadout", "Readout"),
    "attribution.selection": ("top_k",),
    "circuits.attention": ("attention_chart",),
    "circuits.inputs": ("attribute_parts",),
    "circuits.logit_attribution": ("logit_attribution",),
    "circuits.patching": ("patching",),
    "circuits.path_patching": ("path_patching",),
    "facts.source": ("load_facts",),
    "metrics.examples": ("ReadoutExamples",),
    "metrics.registry": ("metric",),
    "models.decoding": ("Sampler",),
    "models.edit": ("Edit",),
    "models.loading.bundle": ("load_model",),
    "objectives.registry": ("objective",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    thing = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = thing  # the next use finds it without this function
    return thing


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _compute_as_stored() -> None:
    # Without importing JAX, so that command lines start fast: it reads the environment when it is imported.
    if "jax" not in sys.modules:
        os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", PRECISION)
    elif sys.modules["jax"].config.jax_default_matmul_precision is None:
        sys.modules["jax"].config.update("jax_default_matmul_precision", PRECISION)


_compute_as_stored()
