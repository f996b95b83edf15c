"""A small language model with words of its own, for circuits."""

import jax
from tiny import ARCHITECTURES, tiny_config, tiny_params
from tokenizers import Tokenizer, models, pre_tokenizers

from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.tokenizer_training import train_tokenizer
from jaxinterp.models.tokenizers import TextTokenizer

WORDS = "a b c d e f"
# Norms before and after, both kinds of norm, biases, grouped heads, attention and FFN in parallel.
CAUSAL = ("gpt", "llama", "olmo")


def _dtype():
    return "float64" if jax.config.jax_enable_x64 else "float32"


def masked_model():
    """A masked one: [CLS] text [SEP]. In the dtype that jax has."""
    words = {word: id for id, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()])}
    backend = Tokenizer(models.WordLevel(words, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer = TextTokenizer(backend, (2,), (3,), 0, 1, mask=4)
    shape = {"n_layers": 2, "d_vocab": len(words), "n_ctx": 8, "dtype": _dtype()}
    config = tiny_config(**shape, **ARCHITECTURES["bert"])
    return LanguageModel(Model(config, tiny_params(config, 1)), tokenizer, {})


def small_model(name="llama", seed=3, size=2.0, **changes):
    """In the dtype that jax has; weights `size` times as large as those of tiny models, so that texts differ."""
    tokenizer = train_tokenizer([WORDS])
    shape = {"n_layers": 3, "d_vocab": tokenizer.n_tokens, "n_ctx": 8, "dtype": _dtype()}
    config = tiny_config(**{**shape, **ARCHITECTURES[name], **changes})
    params = jax.tree.map(lambda x: size * x, tiny_params(config, seed))
    return LanguageModel(Model(config, params), tokenizer, {})
