"""Tiny models in the published formats: their configs, and weights that anyone can make again from a tensor's name."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

GOLDEN = Path(__file__).parent / "golden"
SIZES = {"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2}
SIZES |= {"vocab_size": 13, "max_position_embeddings": 16}
LLAMA = SIZES | {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu"}
LLAMA |= {"rms_norm_eps": 1e-5, "rope_theta": 100.0, "tie_word_embeddings": True}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
QWEN = SIZES | {"num_key_value_heads": 1, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1000.0}
GEMMA = SIZES | {"num_key_value_heads": 1, "head_dim": 6, "query_pre_attn_scalar": 5, "rms_norm_eps": 1e-6}
GEMMA |= {"hidden_activation": "gelu_pytorch_tanh", "rope_theta": 1000.0, "sliding_window": 3}
NEOX = SIZES | {"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "hidden_act": "gelu"}
NEOX |= {"rotary_pct": 0.5, "rotary_emb_base": 100, "layer_norm_eps": 1e-5, "tie_word_embeddings": False}
BERT = SIZES | {"model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_act": "gelu", "type_vocab_size": 2}
MISTRAL = SIZES | {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "hidden_act": "silu"}
MISTRAL |= {"num_key_value_heads": 1, "rms_norm_eps": 1e-5, "rope_theta": 100.0, "sliding_window": 3}
PHI3 = SIZES | {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "hidden_act": "silu", "pad_token_id": 0}
PHI3 |= {"num_key_value_heads": 1, "rms_norm_eps": 1e-5, "rope_theta": 100.0, "sliding_window": None}
OLMO2 = SIZES | {"model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"], "hidden_act": "silu"}
OLMO2 |= {"num_key_value_heads": 1, "rms_norm_eps": 1e-6, "rope_theta": 100.0, "tie_word_embeddings": False}
OPT = {"model_type": "opt", "architectures": ["OPTForCausalLM"], "activation_function": "relu", "hidden_size": 8}
OPT |= {"num_hidden_layers": 2, "ffn_dim": 12, "num_attention_heads": 2, "vocab_size": 13, "word_embed_proj_dim": 8}
OPT |= {"max_position_embeddings": 16, "do_layer_norm_before": True, "pad_token_id": 1}
GPT_NEO = {"model_type": "gpt_neo", "architectures": ["GPTNeoForCausalLM"], "activation_function": "gelu_new"}
GPT_NEO |= {"num_layers": 3, "hidden_size": 8, "num_heads": 2, "vocab_size": 13, "max_position_embeddings": 16}
GPT_NEO |= {"attention_types": [[["global", "local", "local"], 1]], "window_size": 3, "layer_norm_epsilon": 1e-5}
GPTJ = {"model_type": "gptj", "architectures": ["GPTJForCausalLM"], "activation_function": "gelu_new", "n_embd": 16}
GPTJ |= {"n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 13, "rotary_dim": 4, "n_inner": None}
GPTJ |= {"layer_norm_epsilon": 1e-5, "rotary": True, "scale_attn_weights": True, "tie_word_embeddings": False}
DISTILBERT = {"model_type": "distilbert", "architectures": ["DistilBertForMaskedLM"], "activation": "gelu", "dim": 8}
DISTILBERT |= {"n_layers": 2, "n_heads": 2, "hidden_dim": 12, "vocab_size": 13, "max_position_embeddings": 16}
# The padding's id has the padding's position wherever it stands: no text of this vocabulary has it, see `tokens`.
ROBERTA = SIZES | {"model_type": "roberta", "architectures": ["RobertaForMaskedLM"], "hidden_act": "gelu"}
ROBERTA |= {"type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5, "vocab_size": 17}
MODERNBERT = SIZES | {"model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"]}
MODERNBERT |= {"hidden_activation": "gelu", "classifier_activation": "gelu", "num_hidden_layers": 4, "pad_token_id": 0}
MODERNBERT |= {"global_attn_every_n_layers": 3, "local_attention": 2, "global_rope_theta": 1000.0, "norm_eps": 1e-5}
MODERNBERT |= {"local_rope_theta": 10.0, "position_embedding_type": "absolute", "layer_norm_eps": 1e-5}

# config.json as published, by the name of the golden file. Whatever differs between families shows at this size:
# windows are shorter than the sequences, and scaled positions turn by more than rounding errors.
CASES: dict[str, dict] = {
    "bert": BERT | {"layer_norm_eps": 1e-12},
    "gpt2": {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new"}
    | {"n_embd": 8, "n_head": 2, "n_layer": 2, "n_positions": 16, "vocab_size": 13, "layer_norm_epsilon": 1e-5},
    "neox": NEOX,
    "neox_serial": NEOX | {"use_parallel_residual": False, "rotary_pct": 1.0},
    "llama": LLAMA,
    "llama_grouped": LLAMA
    | {"num_key_value_heads": 2, "num_attention_heads": 4, "attention_bias": True, "mlp_bias": True}
    | {"tie_word_embeddings": False},
    "llama3": LLAMA
    | {
        "head_dim": 16,
        "rope_scaling": LLAMA3 | {"original_max_position_embeddings": 16},
        "max_position_embeddings": 64,
    },
    "qwen2": QWEN | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False},
    "qwen3": QWEN | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 6},
    "gemma2": GEMMA
    | {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "hidden_act": "gelu_pytorch_tanh"}
    | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma3": GEMMA
    | {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "sliding_window_pattern": 3}
    | {"rope_local_base_freq": 10.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "num_hidden_layers": 3},
    "mistral": MISTRAL,
    "phi3": PHI3,
    "phi3_partial": PHI3
    | {"hidden_size": 16, "partial_rotary_factor": 0.5, "sliding_window": 3, "tie_word_embeddings": True},
    "olmo2": OLMO2,
    "opt": OPT,
    "gpt_neo": GPT_NEO,
    "gptj": GPTJ,
    "distilbert": DISTILBERT,
    "roberta": ROBERTA,
    "modernbert": MODERNBERT,
}
CASES["yarn"] = LLAMA | {
    "head_dim": 16,
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 4.0},
    "max_position_embeddings": 64,
}
CASES["gemma3_of_images"] = {
    "model_type": "gemma3",
    "architectures": ["Gemma3ForConditionalGeneration"],
    "text_config": {
        name: value
        for name, value in CASES["gemma3"].items()
        if name not in ("architectures", "rope_theta", "rope_local_base_freq", "max_position_embeddings")
    }
    | {"model_type": "gemma3_text"},
    "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 4, "intermediate_size": 4}
    | {"num_hidden_layers": 3, "num_attention_heads": 1, "image_size": 4, "patch_size": 2},
    "mm_tokens_per_image": 4,
    "image_token_index": 0,
}
LENGTHS = (7, 5)  # of the two sequences; the shorter one is padded
# (sequence, position, target) of attributions; in a masked language model nothing but the position's name would change.
ROWS = ((0, 6, 3), (1, 2, 7), (0, 1, 11))
ATTRIBUTED = ("gpt2", "bert", "llama", "phi3", "olmo2", "opt", "gptj", "modernbert")
POINTS = 20


def seeded(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of that name, in float32: random numbers from a hash of the name."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    return (0.5 * rng.standard_normal(shape)).astype(np.float32)


def tokens(n_vocab: int) -> np.ndarray:
    """Two sequences, right-padded with token 0."""
    lowest = 2 if n_vocab == ROBERTA["vocab_size"] else 1
    drawn = np.random.default_rng(0).integers(lowest, n_vocab, (len(LENGTHS), max(LENGTHS)), dtype=np.int32)
    return drawn * (np.arange(max(LENGTHS))[None] < np.array(LENGTHS)[:, None])


def golden(name: str) -> dict:
    """A golden file."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def shapes(record: Mapping) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a golden file's tensors; "{}" in a name stands for each layer."""
    layers = range(record["layers"])
    named = {name.format(layer): shape for name, shape in record["tensors"].items() for layer in layers}
    return {name: tuple(shape) for name, shape in named.items()}


def write_checkpoint(folder: Path, config: Mapping, named: Mapping[str, tuple[int, ...]]) -> Path:
    """A folder with config.json and model.safetensors, weights made by `seeded`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: seeded(name, shape) for name, shape in named.items()}, folder / "model.safetensors")
    return folder


def rewrite(folder: Path, change: Callable[[dict], Mapping]) -> None:
    """Replaces the tensors of a checkpoint."""
    path = folder / "model.safetensors"
    save_file(dict(change(load_file(path))), path)
