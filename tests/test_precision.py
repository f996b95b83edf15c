"""Products of float32 matrices are asked for in float32, whoever imports what first."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import jaxinterp
from jaxinterp.models.config import preset
from jaxinterp.models.model import Model, parameter_shapes
from jaxinterp.models.transformer import forward

PRINT = "import jax; print(jax.config.jax_default_matmul_precision)"


@pytest.mark.parametrize(
    ("code", "given", "expected"),
    [
        (f"import jaxinterp; {PRINT}", None, "highest"),
        (f"import jax; import jaxinterp; {PRINT}", None, "highest"),
        (f"import jaxinterp; {PRINT}", "bfloat16", "bfloat16"),
        (f"import jax; import jaxinterp; {PRINT}", "tensorfloat32", "tensorfloat32"),
        (
            f"import jax; jax.config.update('jax_default_matmul_precision', 'high'); import jaxinterp; {PRINT}",
            None,
            "high",
        ),
    ],
)
def test_precision_is_set_on_import_unless_it_was_chosen(code, given, expected):
    environment = {name: value for name, value in os.environ.items() if name != "JAX_DEFAULT_MATMUL_PRECISION"}
    environment |= {} if given is None else {"JAX_DEFAULT_MATMUL_PRECISION": given}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == expected


def test_every_product_of_a_forward_is_asked_for_in_float32():
    """What the compiler gets, which is where a GPU or TPU would otherwise round."""
    assert jax.config.jax_default_matmul_precision == jaxinterp.PRECISION
    config = preset("0.5m", d_vocab=16, n_ctx=8, n_layers=2)
    params = parameter_shapes(config)
    tokens = jax.ShapeDtypeStruct((2, 8), jnp.int32)
    text = (
        jax.jit(lambda params, tokens: forward(Model(config, params), tokens).logits_BTV)
        .lower(params, tokens)
        .as_text()
    )
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) >= 8
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)
