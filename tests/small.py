"""A small language model with words of its own, for circuits."""

import jax
from tiny import ARCHITECTURES, tiny_config, tiny_params

from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.tokenizer_training import train_tokenizer

WORDS = "a b c d e f"
# Norms before and after, both kinds of norm, biases, grouped heads, attention and FFN in parallel.
CAUSAL = ("gpt", "llama", "olmo")


def small_model(name="llama", seed=3, size=2.0, **changes):
    """In the dtype that jax has; weights `size` times as large as those of tiny models, so that texts differ."""
    tokenizer = train_tokenizer([WORDS])
    dtype = "float64" if jax.config.jax_enable_x64 else "float32"
    shape = {"n_layers": 3, "d_vocab": tokenizer.n_tokens, "n_ctx": 8, "dtype": dtype}
    config = tiny_config(**{**shape, **ARCHITECTURES[name], **changes})
    params = jax.tree.map(lambda x: size * x, tiny_params(config, seed))
    return LanguageModel(Model(config, params), tokenizer, {})
