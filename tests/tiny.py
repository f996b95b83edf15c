"""Tiny models and batches with answers of one and several tokens, and steps compiled once, shared by the tests."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from full_forward import FullForwardReadout

from jaxinterp.attribution.answers import Answers
from jaxinterp.attribution.readout import FunctionReadout
from jaxinterp.facts.batches import QueryBatch, query_batch
from jaxinterp.facts.encoding import EncodedQueries
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.model import Model, parameter_shapes
from jaxinterp.models.readout import LanguageModelReadout, lm_readout
from jaxinterp.models.tokenizer_training import train_tokenizer
from jaxinterp.models.tokenizers import TextTokenizer
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.context import Context

_NO_BIAS = {"qkv_bias": False, "out_bias": False, "mlp_bias": False}
_LLAMA = {"norm": "rmsnorm", "position": "rotary", "ffn": "swiglu", "tied": False, **_NO_BIAS}
ARCHITECTURES = {
    "gpt": {},
    "llama": {**_LLAMA, "n_kv_heads": 1},
    "relu": {"ffn": "relu", "norm": "layernorm", **_NO_BIAS},
    "neox": {"position": "rotary", "rope_share": 0.5, "parallel": True, "ffn": "gelu_exact", "tied": False},
    "gemma": {
        **_LLAMA,
        "tied": True,
        "ffn": "geglu",
        "norm_placement": "sandwich",
        "qk_norm": True,
        "window": 3,
        "local_layers": (1,),
        "rope_theta_local": 100.0,
        "attn_softcap": 5.0,
        "logit_softcap": 3.0,
        "embed_scale": 2.0,
        "attn_scale": 0.3,
    },
    "bert": {
        "attention": "bidirectional",
        "norm_placement": "post",
        "ffn": "gelu_exact",
        "embed_norm": True,
        "unembed_bias": True,
        "head": "transform",
    },
    "olmo": {**_LLAMA, "norm_placement": "output", "qk_norm": True, "qk_norm_over": "all_heads", "n_kv_heads": 1},
    "modernbert": {
        "attention": "bidirectional",
        "norm_bias": False,
        "first_attn_norm": False,
        "position": "rotary",
        "window": 2,  # so that some padded positions see nothing but padding
        "local_layers": (0, 1),
        "rope_theta_local": 100.0,
        "ffn": "geglu_exact",
        **_NO_BIAS,
        "embed_norm": True,
        "unembed_bias": True,
        "head": "transform",
    },
}
# What no published family has: neurons of several units, experts, and gates of layers.
UNPUBLISHED = {
    "units": {"ffn_units": 3},
    "experts": {**ARCHITECTURES["neox"], "experts": 3, "experts_active": 2, "depth_gates": True},
    "masked": {**ARCHITECTURES["modernbert"], "experts": 3, "experts_active": 2, "depth_gates": True},
}


def masked_tokenizer(corpus: Sequence[str]) -> TextTokenizer:
    """Words, with the frame of BERT: [CLS] text [SEP], and [MASK]."""
    tokenizer = train_tokenizer([*corpus, "[CLS] [SEP] [MASK]"])
    start, end, mask = (tokenizer.backend.token_to_id(token) for token in ("[CLS]", "[SEP]", "[MASK]"))
    return dataclasses.replace(tokenizer, prefix=(start,), suffix=(end,), mask=mask)


def tiny_config(**changes) -> ModelConfig:
    fields = {"d_vocab": 11, "n_ctx": 8, "n_layers": 3, "d_model": 8, "d_mlp": 6, "n_heads": 2, "n_kv_heads": 2}
    return ModelConfig(**{**fields, "d_head": 4, **changes})


def tiny_params(config: ModelConfig, seed: int = 0) -> dict:
    """Parameters far from the uniform distribution, so that attributions are not all near zero."""
    shapes, rng = parameter_shapes(config), np.random.default_rng(seed)
    return jax.tree.map(lambda x: jax.numpy.asarray(0.5 * rng.standard_normal(x.shape), x.dtype), shapes)


def tiny_queries(n: int = 6, seed: int = 0) -> EncodedQueries:
    """Queries with subjects 0 … n−1, relations in turn out of 3, answers of 1 and 2 tokens, lengths 6 to 8."""
    rng = np.random.default_rng(seed)
    index = np.arange(n)
    length = 6 + index % 3
    answer_length = 1 + index % 2
    tokens = rng.integers(1, 11, (n, 8)) * (np.arange(8)[None] < length[:, None])
    start = length - 1 - answer_length
    return EncodedQueries(tokens.astype(np.int32), length, start, answer_length, index, index * 0, index % 3, index)


def tiny_grid(n_subjects: int = 2, n_relations: int = 3, seed: int = 0) -> EncodedQueries:
    """A query for each subject and relation, subject by subject, so that answers have controls of every kind.

    Answers of 1 and 2 tokens; no two have a token in common. Tokens are below 11 for up to 6 queries.
    """
    queries = tiny_queries(n_subjects * n_relations, seed)
    tokens, token = queries.tokens_NT.copy(), 0
    for row, (start, length) in enumerate(zip(queries.answer_start_N, queries.answer_length_N, strict=True)):
        tokens[row, start : start + length] = token + 1 + np.arange(length)
        token += length
    subject, relation = np.divmod(np.arange(len(queries)), n_relations)
    return dataclasses.replace(queries, tokens_NT=tokens, subject_N=subject, relation_N=relation, answer_N=None)


def tiny_batch(n: int = 6, n_rows: int = 10, seed: int = 0) -> QueryBatch:
    queries = tiny_queries(n, seed)
    rng = np.random.default_rng(seed)
    return query_batch(queries, n_sequences=n, n_rows=n_rows, answered=range(n), rng=rng)[0]


def tiny_grid_batch(n_subjects: int = 2, n_relations: int = 3, n_rows: int = 10, n_controls: int = 1) -> QueryBatch:
    """All of `tiny_grid`."""
    queries = tiny_grid(n_subjects, n_relations)
    n, rng = len(queries), np.random.default_rng(0)
    return query_batch(queries, n_sequences=n, n_rows=n_rows, answered=range(n), rng=rng, n_controls=n_controls)[0]


def answers_of(answer_R: Sequence[int], weight_R: Sequence[float], n: int) -> Answers:
    """n answers at rows, without controls."""
    none_XR, none_XN = np.zeros((0, len(answer_R)), int), np.zeros((0, n))
    return Answers(np.array(answer_R), np.array(weight_R), none_XR, np.ones(n), none_XN)


def arrays_of(batch: QueryBatch) -> tuple:
    """Tokens, rows and lengths."""
    return jax.tree.map(jax.numpy.asarray, (batch.tokens_BT, batch.rows, batch.length_B))


def fast_readout(config: ModelConfig, params: dict, batch: QueryBatch) -> LanguageModelReadout:
    return lm_readout(Model(config, params), *arrays_of(batch))[1]


def slow_readout(config: ModelConfig, params: dict, batch: QueryBatch) -> FullForwardReadout:
    return FullForwardReadout(Model(config, params), *arrays_of(batch))


def linear_context(config: ObjectiveConfig, batch: QueryBatch, base_R: jax.Array, scores_LRF: jax.Array) -> Context:
    """What an objective sees of a model whose P is base + Σ score · gate, so that attribution is `scores_LRF`."""
    readout = FunctionReadout(lambda gates: base_R + (scores_LRF * gates).sum((0, 2)), scores_LRF.shape)
    batch = jax.tree.map(jax.numpy.asarray, batch)
    return Context(config, batch.answers, readout, jax.random.key(0))
