"""Programs that tracr compiles, as models of ours.

Lindner et al. 2023, "Tracr: Compiled Transformers as a Laboratory for Interpretability": a program in RASP becomes the
weights of a transformer without norms, in which every direction and every neuron has a meaning. Needs the extra
`groundtruth`.
"""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxinterp.base.errors import UserError
from jaxinterp.groundtruth.blank import IDENTITY_NORM, blank_params, on_device
from jaxinterp.groundtruth.circuit import Planted
from jaxinterp.groundtruth.table import FactTable
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.model import Model

if TYPE_CHECKING:
    from tracr.compiler.assemble import AssembledTransformerModel

# Logit of what the program outputs; the other tokens have 0.
LOGIT = 6.5


def converted(compiled: "AssembledTransformerModel", *, logit: float = LOGIT) -> tuple[ModelConfig, dict]:
    """Config and parameters of a compiled program with categorical output.

    Tokens are encoded by `compiled.input_encoder`, and logit v is that of output v of `compiled.output_encoder`; as
    inputs and outputs share one vocabulary here, the smaller one is filled up with tokens of embedding or logit 0.

    Args:
      compiled: from `tracr.compiler.compiling.compile_rasp_to_model`.
      logit: of the output.
    Raises:
      UserError: if the program's output is numerical.
    """
    source, theirs = compiled.model_config, compiled.params
    unembedding_VD = _unembedding(compiled)
    embedding_VD = np.asarray(theirs["token_embed"]["embeddings"])
    n_ctx, d_model = theirs["pos_embed"]["embeddings"].shape
    config = ModelConfig(
        d_vocab=max(len(embedding_VD), len(unembedding_VD)),
        n_ctx=n_ctx,
        n_layers=source.num_layers,
        d_model=d_model,
        d_mlp=source.mlp_hidden_size,
        n_heads=source.num_heads,
        n_kv_heads=source.num_heads,
        d_head=source.key_size,
        attention="causal" if source.causal else "bidirectional",
        ffn="relu",
        tied=False,
        **IDENTITY_NORM,
    )
    params = blank_params(config)
    params["embedding"][: len(embedding_VD)] = embedding_VD
    params["positions"][:] = theirs["pos_embed"]["embeddings"]
    params["unembedding"][: len(unembedding_VD)] = logit * unembedding_VD
    for layer in range(config.n_layers):
        for ours, name in _NAMES.items():
            part = theirs[f"transformer/layer_{layer}/{name}"]
            for kind in "wb":
                whole = params["layers"][f"{kind}_{ours}"]
                whole[layer] = np.reshape(part[kind], whole.shape[1:])
    return config, on_device(params)


_NAMES = {
    "q": "attn/query",
    "k": "attn/key",
    "v": "attn/value",
    "o": "attn/linear",
    "in": "mlp/linear_1",
    "out": "mlp/linear_2",
}


def compiled_table(table: FactTable) -> Planted:
    """The table as a program: look up the first token and this one.

    tracr gives such a lookup a neuron for every pair of values, relu(x + y − 1), which is the truth.

    Raises:
      UserError: if tracr is not installed.
    """
    try:
        from tracr.compiler import compiling
        from tracr.rasp import rasp
    except ImportError:
        raise UserError("programs are compiled by tracr: pip install -e .[groundtruth]") from None
    facts = {
        (f"s{s}", f"r{r}"): f"a{a}" for s, r, a in zip(table.subject_N, table.relation_N, table.answer_N, strict=True)
    }
    vocabulary = {name for pair in facts for name in pair}
    first = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == 0)
    told = rasp.Aggregate(first, rasp.tokens).named("told")
    # A pair that is no fact gets the answer of one: only facts are asked for.
    program = rasp.SequenceMap(lambda s, r: facts.get((s, r), "a0"), told, rasp.tokens).named("answer")
    compiled = compiling.compile_rasp_to_model(
        program,
        vocabulary,
        # tracr makes heads as wide as positions need, and fails where tokens need more.
        max_seq_len=len(vocabulary),
        causal=True,
        compiler_bos="start",
    )
    config, params = converted(compiled)

    encode, decode = compiled.input_encoder.encoding_map, compiled.output_encoder.encoding_map
    tokens = [[encode["start"], encode[s], encode[r]] for s, r in facts]
    rows = table.rows()._replace(target_R=jnp.asarray([decode[answer] for answer in facts.values()]))
    label = {name: index for index, name in enumerate(compiled.residual_labels)}
    w_in_LDF = np.asarray(params["layers"]["w_in"])
    read = lambda program, value: w_in_LDF[:, label[f"{program.label}:{value}"]] > 0  # noqa: E731
    mask_RLF = [read(told, s) & read(rasp.tokens, r) for s, r in facts]
    mask_LRF = jnp.asarray(np.stack(mask_RLF, 1), params["unembedding"].dtype)
    return Planted(Model(config, params), jnp.asarray(tokens), rows, mask_LRF, jnp.zeros_like(mask_LRF))


def _unembedding(compiled: "AssembledTransformerModel") -> Float[np.ndarray, "V D"]:
    import haiku

    def unembed(x: jax.Array) -> jax.Array:
        return compiled.get_compiled_model().unembed(x, use_unembed_argmax=False)

    outputs = haiku.without_apply_rng(haiku.transform(unembed)).apply({}, jnp.eye(len(compiled.residual_labels)))
    if outputs.ndim != 2:
        raise UserError("the program's output is a number; only a categorical output has a probability")
    return np.asarray(outputs).T
