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
ATTRIBUTED = ("gpt2", "bert", "llama")
POINTS = 20


def seeded(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of that name, in float32: random numbers from a hash of the name."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    return (0.5 * rng.standard_normal(shape)).astype(np.float32)


def tokens(n_vocab: int) -> np.ndarray:
    """Two sequences, right-padded with token 0."""
    drawn = np.random.default_rng(0).integers(1, n_vocab, (len(LENGTHS), max(LENGTHS)), dtype=np.int32)
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
